"""The report of a validation: the ladder, the audit, and what each layer fell back to."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.job.validation import Validation
from lrq_deploy.export.measures.coverage import Coverage
from lrq_deploy.export.parity.ladder import Ladder, Rung
from lrq_deploy.wording import counted

__all__ = ["print_validation"]

_HEADINGS = ("images", "top-1", "rows", "bits", "max", "mean")
_NARROW_HEADINGS = ("top-1", "max")
_NARROW = 76
"""Columns of a terminal below which all figures leave no room for the names."""


def print_validation(console: Console, found: Validation) -> None:
    """Print the ladder, where forms part, and the integer audit.

    Args:
        console: where to write; lines stay within its width.
        found: what was measured.
    """
    made = "made " if found.images_source == "synthetic" else ""
    title = f"{found.name}, {found.scheme}, {counted(found.images, f'{made}image')}"
    console.print(title, highlight=False, markup=False)
    for remark in found.remarks:
        console.print(Text(f"warning: {remark}", style="yellow"))
    console.print(_ladder(found.ladder, console.width))
    for rung in found.ladder.rungs:
        where = f"parts at {rung.where}" if rung.where else ""
        skipped = f"not run: {rung.skipped}" if rung.skipped else ""
        for said in filter(None, (where, skipped, rung.remark)):
            console.print(f"  {rung.name} {said}", highlight=False, markup=False)
    _print_audit(console, found.coverage, full=found.min_integer_coverage is not None)
    verdict, colour = ("VALID: ", "green") if found.passes else ("NOT VALID: ", "red")
    sentence = Text(verdict, style=f"bold {colour}")
    said = f"{_sentence(found)} {found.measured.describe()}"
    sentence.append(said, style="not bold default")
    console.print(sentence)


def _sentence(found: Validation) -> str:
    failures = [rung.title for rung in found.ladder.failures]
    if failures:
        return f"below the bound: {', '.join(failures)}."
    if found.missing_engine:
        return "the required engine did not run."
    if not found.enough_integers:
        return "too little of the graph runs in integers."
    if (missed := found.missed_accuracy) is not None:
        return f"{missed.rule}, got {missed.received}."
    ran = " that ran" if any(rung.skipped for rung in found.ladder.rungs) else ""
    return f"every form{ran} is within its bound."


def _ladder(ladder: Ladder, width: int) -> Table:
    """Names fold where room is short; figures and verdicts, which would be cut, do not."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("form of the student", overflow="fold")
    shown = _NARROW_HEADINGS if width < _NARROW else _HEADINGS
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for rung in ladder.rungs:
        *figures, verdict = _figures(rung)
        kept = dict(zip(_HEADINGS, figures, strict=True))
        table.add_row(rung.title, *(kept[heading] for heading in shown), verdict)
    return table


def _figures(rung: Rung) -> tuple[str, ...]:
    parity = rung.parity
    if parity is None:
        return ("-",) * len(_HEADINGS) + ("not run",)
    verdict = "ok" if rung.passes else "below"
    shares = (parity.same_top1, parity.same_rows, parity.identical_rows)
    return (
        f"{parity.count:,}",
        *(f"{100 * share:.2f}" for share in shares),
        f"{parity.max_diff:.1g}",
        f"{parity.mean_diff:.1g}",
        verdict,
    )


def _print_audit(console: Console, coverage: Coverage, *, full: bool) -> None:
    console.print(
        f"executed in integers: {100 * coverage.share:.1f} % of the multiply-adds, "
        f"{100 * coverage.layer_share:.1f} % of {len(coverage.layers)} layers",
        highlight=False,
    )
    if coverage.float_operators:
        rest = ", ".join(f"{count} {name}" for name, count in coverage.float_operators.items())
        console.print(f"other operators on floats: {rest}", highlight=False, markup=False)
    layers = coverage.layers if full else coverage.fallbacks
    if not layers:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer")
    table.add_column("multiply-adds", justify="right")
    table.add_column("kernel", no_wrap=True)
    table.add_column("fallback and remedy")
    for layer in layers:
        table.add_row(layer.name, f"{layer.multiply_adds:,}", layer.kernel or "-", layer.reason)
    console.print(table)
