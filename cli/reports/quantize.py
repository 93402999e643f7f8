"""The closing report of a run: one table, one sentence, the next commands."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.job.result import QuantizeResult
from lrq_deploy.cli.job.sizes import size_change
from lrq_deploy.wording import counted, size_text

__all__ = ["print_report"]


def print_report(console: Console, result: QuantizeResult) -> None:
    """Print the figures of a run, whether to ship it, and what to run next.

    Args:
        console: where to write; lines stay within its width.
        result: product of the run.
    """
    console.print(_comparison(result))
    console.print(_checks(result))
    for remark in (*result.model_remarks, *result.images_remarks):
        console.print(Text(f"warning: {remark}", style="yellow"))
    sentence = Text(f"{result.headline}: ", style="bold")
    sentence.stylize("green" if result.ship else "red" if result.told else "yellow")
    sentence.append(result.verdict, style="not bold default")
    console.print(sentence)
    for figure, text in result.improvements.items():
        console.print(f"  better {figure}: {text}.", markup=False, highlight=False)
    if result.next_commands:
        console.print("\nNext:", highlight=False)
        for command in result.next_commands:
            # Never wrapped, so that it can be copied.
            console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _comparison(result: QuantizeResult) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column(f"{result.name}, {result.scheme}")
    table.add_column("teacher", justify="right")
    table.add_column("student", justify="right")
    table.add_column("change", justify="right")
    teacher, student = result.teacher_accuracy, result.student_accuracy
    if teacher is not None and student is not None:
        points = f"{student - teacher:+.2f} points{_change_interval(result.drop_interval)}"
        table.add_row("accuracy", f"{teacher:.2f} %", f"{student:.2f} %", points)
    ratio = size_change(result.float_bytes, result.student_bytes)
    table.add_row("size", size_text(result.float_bytes), size_text(result.student_bytes), ratio)
    before, after = result.float_latency_ms, result.student_latency_ms
    if before is not None and after is not None:
        change = f"{after / before:.2f} of the time"
        table.add_row("latency", f"{before:.2f} ms", f"{after:.2f} ms", change)
    return table


def _checks(result: QuantizeResult) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    made = "made " if result.images_source == "synthetic" else ""
    count = counted(result.images_measured, f"{made}image")
    low, high = result.agreement_interval
    share = f"{result.agreement:.2f} % ({low:.1f} to {high:.1f})"
    agreement = f"{share} of {count}"
    if result.label_f1 is not None and result.labels_exact is not None:
        agreement = (
            f"{share} of the labels of {count}, all labels on "
            f"{result.labels_exact:.2f} %; F1 of the yes answers {result.label_f1:.2f} %"
        )
    table.add_row("same answer as the teacher", agreement)
    table.add_row(
        "ONNX Runtime against torch",
        f"{result.parity_top1:.2f} % same answers; logits differ by "
        f"{result.parity_max_diff:.2g} at most, {result.parity_mean_diff:.2g} on average",
    )
    table.add_row("executed in integers", f"{result.integer_share:.1f} % of the multiply-adds")
    table.add_row("loads in", _runtimes(result))
    table.add_row("time", _time(result))
    table.add_row("peak memory", _memory(result))
    table.add_row("bundle", str(result.bundle_path))
    table.add_row("", "")
    return table


def _change_interval(drop: tuple[float, float] | None) -> str:
    return "" if drop is None else f" ({-drop[1]:+.1f} to {-drop[0]:+.1f})"


def _runtimes(result: QuantizeResult) -> str:
    found = f"ONNX Runtime {result.needs_onnxruntime} or later"
    if result.needs_onnxruntime == result.oldest_onnxruntime:
        return found
    return f"{found}; build --onnxruntime {result.oldest_onnxruntime} writes it for older ones"


def _memory(result: QuantizeResult) -> str:
    host, device = f"{result.peak_memory_mib:,.0f} MiB", result.peak_cuda_memory_mib
    return host if device is None else f"{host}, and {device:,.0f} MiB on the GPU"


def _time(result: QuantizeResult) -> str:
    slowest = sorted(result.stage_seconds.items(), key=lambda item: -item[1])[:3]
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest)
    saved = [f"; {name} reused, saves {s:.1f} s" for name, s in result.seconds_saved.items()]
    return f"{result.seconds:.1f} s" + (f" ({stages})" if stages else "") + "".join(saved)
