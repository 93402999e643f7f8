"""How a plan is shown: layers, figures, what the widths buy, and the command."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.reports.wide_tables import print_rows
from lrq_deploy.planning.plan import Plan, PlannedLayer
from lrq_deploy.wording import counted, size_text

__all__ = ["print_plan"]

_MINUTE = 60.0


def print_plan(console: Console, plan: Plan, command: str) -> None:
    """Print a plan.

    Args:
        console: where to write; lines stay within its width, the command is never wrapped.
        plan: product of ``make_plan``.
        command: the ``quantize`` command that the plan is of, with pixels as they fit.
    """
    names = [layer.facts.name for layer in plan.layers]
    print_rows(console, _layers(plan), [names], [_line(layer) for layer in plan.layers])
    _print_notes(console, plan)
    console.print(_figures(plan))
    for runtime, sentences in plan.advice.items():
        console.print(Text(f"\n{runtime}", style="bold"))
        for sentence in sentences:
            console.print(Text(f"- {sentence}"))
    if plan.alternative:
        console.print(Text("\nInstead", style="bold"))
        console.print(Text(f"- {plan.alternative}"))
    if not plan.obstacle:
        console.print("\nNext:", highlight=False)
        console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)


def _layers(plan: Plan) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for title in ("weight", "bits", "MMAC"):
        table.add_column(title, justify="right", no_wrap=True)
    for runtime in plan.advice:
        table.add_column(runtime, no_wrap=True)
    for layer in plan.layers:
        kernels = (_kernel(layer, runtime) for runtime in plan.advice)
        table.add_row(Text(layer.facts.name), *_facts_of(layer), *kernels)
    return table


def _facts_of(layer: PlannedLayer) -> tuple[str, str, str, str]:
    facts = layer.facts
    grouping = "" if facts.grouping == "dense" else f"{facts.grouping} "
    return (
        grouping + facts.kind,
        "x".join(str(size) for size in facts.weight_shape),
        f"W{facts.weight_bits}A{facts.input_bits}",
        f"{facts.multiply_adds / 1e6:,.2f}",
    )


def _line(layer: PlannedLayer) -> Text:
    """The row of a layer in words."""
    kind, weight, bits, multiply_adds = _facts_of(layer)
    line = Text(f"{layer.facts.name}: {kind} {weight}, {bits}, {multiply_adds} MMAC")
    for runtime in layer.executions:
        line.append(f", {runtime} ").append_text(_kernel(layer, runtime))
    return line


def _kernel(layer: PlannedLayer, runtime: str) -> Text:
    execution = layer.executions[runtime]
    # The kind has a column of its own; the first word tells what it is computed in.
    word = execution.kernel.partition(" ")[0] + ("*" if execution.note else "")
    return Text(word, style="" if execution.integer else "yellow")


def _print_notes(console: Console, plan: Plan) -> None:
    """Each note once, with the number of its layers."""
    counts: dict[tuple[str, str, str], int] = {}
    for layer in plan.layers:
        for runtime, execution in layer.executions.items():
            if execution.note:
                key = (runtime, execution.kernel, execution.note)
                counts[key] = counts.get(key, 0) + 1
    for (runtime, kernel, note), count in counts.items():
        console.print(Text(f"* {runtime}, {kernel}, {counted(count, 'layer')}: {note}"))
    if counts:
        console.print()


def _figures(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    shape = "x".join(str(size) for size in plan.input_shape)
    rows = [
        ("network", f"{plan.name}, {shape} to {plan.num_classes} classes, {plan.origin}"),
        ("scheme", f"{plan.scheme.describe()}, recipe {plan.recipe}"),
        ("quantizers", _quantizers(plan)),
        ("multiply-adds", f"{plan.multiply_adds / 1e6:,.1f} M; {_shares(plan)}"),
        ("size on disk", _sizes(plan)),
        ("in memory", f"about {size_text(plan.sizes.memory_bytes)}, one image"),
        ("BatchNorm enough?", plan.batch_norm.verdict),
        ("time of the run", _time(plan)),
    ]
    if plan.strays:
        rows.append(("in float", _strays(plan)))
    rows += [("weights", remark) for remark in plan.remarks]
    if plan.normalisation:
        rows.append(("pixels", plan.normalisation))
    if plan.obstacle:
        rows.append(("refused", plan.obstacle))
    for title, value in rows:
        table.add_row(title, Text(value))
    return table


def _quantizers(plan: Plan) -> str:
    widths: dict[int, int] = {}
    for quantizer in plan.quantizers:
        widths[quantizer.bits] = widths.get(quantizer.bits, 0) + 1
    parts = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(widths.items()))
    signed = sum(quantizer.signed for quantizer in plan.quantizers)
    return f"{len(plan.quantizers)} of activations: {parts}; {signed} signed"


def _shares(plan: Plan) -> str:
    parts = (f"{100 * plan.integer_share(name):.1f} % by {name}" for name in plan.advice)
    return "in integers " + ", ".join(parts)


def _strays(plan: Plan) -> str:
    names = ", ".join(plan.strays)
    count = sum(plan.strays.values()) / 1e6
    return (
        f"{names}: {count:,.2f} M multiply-adds by stored numbers outside of convolutions and "
        "linear layers"
    )


def _sizes(plan: Plan) -> str:
    sizes = plan.sizes
    return (
        f"about {size_text(sizes.packed_bytes)}, instead of {size_text(sizes.int8_bytes)} with "
        f"8-bit weights and {size_text(sizes.float_bytes)} in float32"
    )


def _time(plan: Plan) -> str:
    duration = plan.duration
    longest = sorted(duration.seconds.items(), key=lambda item: -item[1])[:3]
    stages = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in longest)
    return (
        f"about {_minutes(duration.total_seconds)} on this CPU with "
        f"{counted(duration.threads, 'thread')} ({stages}) for "
        f"{duration.generator_steps} generator and {duration.student_steps} student steps, from "
        f"{duration.teacher_ms:.2f} ms per image of the network and "
        f"{duration.generator_ms:.2f} ms of the generator"
    )


def _minutes(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _MINUTE * _MINUTE:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _MINUTE / _MINUTE:.1f} h"
