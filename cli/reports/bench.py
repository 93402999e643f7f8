"""The report of a benchmark."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.job.sizes import size_change
from lrq_deploy.export.engine.latency import timed_runs
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    Benchmark,
    Distribution,
    EngineBenchmark,
)
from lrq_deploy.wording import counted, size_text

__all__ = ["print_benchmark"]


def print_benchmark(console: Console, found: Benchmark) -> None:
    """Print latencies, sizes and memory.

    Args:
        console: where to write; lines stay within its width.
        found: what was measured.
    """
    options = found.options
    threads = counted(options.threads, "thread")
    console.print(
        f"{found.runtime}, {threads}, {found.cpu}, {options.runs} interleaved runs",
        highlight=False,
        markup=False,
    )
    if found.device is not None:
        line = f"measured on the device: {found.device.describe()}"
        console.print(line, highlight=False, markup=False)
    for remark in found.images_remarks:
        console.print(Text(f"warning: {remark}", style="yellow"))
    console.print(_table(found.batches, "float"))
    console.print(
        _line("file", found.float_bytes, found.quantized_bytes, found.static_bytes),
        highlight=False,
    )
    if found.float_memory_bytes is not None and found.quantized_memory_bytes is not None:
        memory = (found.float_memory_bytes, found.quantized_memory_bytes)
        line = _line("peak memory", *memory, found.static_memory_bytes)
        console.print(line, highlight=False)
    if found.agreement is not None and found.static_agreement is not None:
        console.print(
            f"same answer as the float graph, {counted(found.images, 'image')}: quantized "
            f"{100 * found.agreement:.2f} %, static {100 * found.static_agreement:.2f} %",
            highlight=False,
        )

    if found.engine is not None:
        _print_engine(console, found.engine, timed_runs(options))
    if found.engine_remark:
        console.print(f"engine not measured: {found.engine_remark}", highlight=False, markup=False)


def _print_engine(console: Console, found: EngineBenchmark, runs: int) -> None:
    launched = "as CUDA graphs" if found.cuda_graph else "one by one"
    console.print(
        f"{found.runtime}, {found.gpu}, both engines launched {launched} without copies, "
        f"{runs} interleaved runs",
        highlight=False,
        markup=False,
    )
    console.print(_table(found.batches, "FP16"))
    console.print(_line("engine", found.float_bytes, found.quantized_bytes, None), highlight=False)
    memory = (found.float_memory_bytes, found.quantized_memory_bytes)
    console.print(_line("GPU memory", *memory, None), highlight=False)


def _table(batches: tuple[BatchLatency, ...], base: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch", justify="right")
    table.add_column("graph")
    for heading in ("p50 ms", "p90 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    table.add_column("images/s", justify="right")
    for batch in batches:
        table.add_row(str(batch.batch_size), base, *_times(batch.float_graph), "", "")
        ratio, speed = f"{batch.ratio:.3f}", f"{batch.images_per_second:,.0f}"
        table.add_row("", "quantized", *_times(batch.quantized), ratio, speed)
        if batch.static is not None:
            relative = batch.static.p50_ms / batch.float_graph.p50_ms
            speed = f"{1000 * batch.batch_size / batch.static.p50_ms:,.0f}"
            table.add_row("", "static", *_times(batch.static), f"{relative:.3f}", speed)
    return table


def _times(found: Distribution) -> tuple[str, ...]:
    return tuple(f"{ms:.3f}" for ms in (found.p50_ms, found.p90_ms, found.p99_ms))


def _line(what: str, before: int, after: int, static: int | None) -> str:
    ratio = f", {size_change(before, after)}" if after else ""
    other = "" if static is None else f"; static {size_text(static)}"
    return f"{what}: float {size_text(before)}, quantized {size_text(after)}{ratio}{other}"
