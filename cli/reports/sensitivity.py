"""How a sensitivity table is shown: the most damaging layers first."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.reports.wide_tables import keeps_to_its_width, print_rows
from lrq_deploy.sensitivity import PROBED_WIDTHS, Damage, Sensitivity, SensitivityTable

__all__ = ["print_sensitivity"]

RANKED_AT = 4
_NARROW = 80
"""Columns of a terminal below which a share stands under its divergence, not beside it."""
_WORST = 3
"""So many of each column are marked."""
_STYLES = ((0.1, "red"), (0.01, "yellow"))


def print_sensitivity(
    console: Console, table: SensitivityTable, remarks: tuple[str, ...] = ()
) -> None:
    """Print weights and activations, each ranked by the damage at 4 bits.

    Args:
        console: where to write; lines stay within its width.
        table: what was measured.
        remarks: on the model and how it is read.
    """
    narrow = keeps_to_its_width(console) and console.width < _NARROW
    between = "\n" if narrow else " "
    layers = table.ranked("weight", RANKED_AT)
    activations = table.ranked("activation", RANKED_AT)
    for title, entries, letter in (("layer", layers, "W"), ("activation", activations, "A")):
        shown = _ranked(table, title, entries, letter, between)
        folding = [[_short(entry.name) for entry in entries]]
        folding += [] if letter == "W" else [[_readers(entry) for entry in entries]]
        print_rows(console, shown, folding, _lines(table, entries, letter))
    console.print(
        Text(
            f"Each value: KL(teacher || student) in nats over {table.images} synthetic images with "
            "this tensor alone quantized and nothing trained; beside it the share of images with "
            "another answer than the teacher's, where there is one. Ranked at 4 bits; *: the "
            "three worst of a width."
        )
    )
    for remark in remarks:
        console.print(Text(f"warning: {remark}", style="yellow"))


def _ranked(
    table: SensitivityTable,
    title: str,
    entries: tuple[Sensitivity, ...],
    letter: str,
    between: str,
) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("", justify="right", no_wrap=True)
    shown.add_column(title, overflow="fold")
    # Names fold where room is short, numbers would be another number.
    counts = letter == "W"
    about = "weights" if counts else "read by"
    shown.add_column(about, justify="right", overflow="fold", no_wrap=counts)
    for bits in PROBED_WIDTHS:
        shown.add_column(f"{letter}{bits}", justify="right", no_wrap=True)
    worst = _worst(table, entries)
    for rank, entry in enumerate(entries, 1):
        shown.add_row(
            str(rank),
            Text(_short(entry.name)),
            Text(f"{entry.elements:,}" if letter == "W" else _readers(entry)),
            *(_cell(entry.at(bits), entry.name in worst[bits], between) for bits in PROBED_WIDTHS),
        )
    return shown


def _lines(table: SensitivityTable, entries: tuple[Sensitivity, ...], letter: str) -> list[Text]:
    """The rows in words."""
    worst = _worst(table, entries)
    lines = []
    for rank, entry in enumerate(entries, 1):
        about = f"{entry.elements:,} weights" if letter == "W" else f"read by {_readers(entry)}"
        line = Text(f"{rank} {_short(entry.name)}, {about}")
        for bits in PROBED_WIDTHS:
            cell = _cell(entry.at(bits), entry.name in worst[bits], " ")
            line.append(f", {letter}{bits} ").append_text(cell)
        lines.append(line)
    return lines


def _worst(table: SensitivityTable, entries: tuple[Sensitivity, ...]) -> dict[int, set[str]]:
    return {
        bits: {e.name for e in table.ranked(entries[0].kind, bits)[:_WORST]}
        for bits in PROBED_WIDTHS
        if entries
    }


def _readers(entry: Sensitivity) -> str:
    return ", ".join(_short(layer) for layer in entry.layers) or "additions, poolings"


def _cell(damage: Damage, is_worst: bool, between: str) -> Text:
    style = next((style for least, style in _STYLES if damage.kl >= least), "")
    value = (
        "0" if damage.kl < 1e-5 else f"{damage.kl:.1e}" if damage.kl < 1e-3 else f"{damage.kl:.3f}"
    )
    changed = 100 * (1 - damage.agreement)
    share = f"{between}{changed:.1f} %" if changed else ""
    mark = "*" if is_worst else ""
    return Text(mark + value + share, style=f"bold {style}" if is_worst else style)


def _short(name: str) -> str:
    return name.partition(".")[2] or name
