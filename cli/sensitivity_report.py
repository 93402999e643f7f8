"""How a sensitivity table is shown: the most damaging layers first."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.sensitivity import PROBED_WIDTHS, Damage, Sensitivity, SensitivityTable

__all__ = ["print_sensitivity"]

RANKED_AT = 4
_NARROW = 80
"""Columns of a terminal below which a share stands under its divergence, not beside it."""
_WORST = 3
"""So many of each column are set in bold."""
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
    between = "\n" if console.width < _NARROW else " "
    layers = table.ranked("weight", RANKED_AT)
    activations = table.ranked("activation", RANKED_AT)
    console.print(_ranked(table, "layer", layers, "W", between))
    console.print(_ranked(table, "activation", activations, "A", between))
    console.print(
        Text(
            f"Each value: KL(teacher || student) in nats over {table.images} synthetic images with "
            "this tensor alone quantized and nothing trained; beside it the share of images with "
            "another answer than the teacher's, where there is one. Ranked at 4 bits; bold: the "
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
    worst = {
        bits: {e.name for e in table.ranked(entries[0].kind, bits)[:_WORST]}
        for bits in PROBED_WIDTHS
        if entries
    }
    for rank, entry in enumerate(entries, 1):
        readers = ", ".join(_short(layer) for layer in entry.layers) or "additions, poolings"
        shown.add_row(
            str(rank),
            Text(_short(entry.name)),
            Text(f"{entry.elements:,}" if letter == "W" else readers),
            *(_cell(entry.at(bits), entry.name in worst[bits], between) for bits in PROBED_WIDTHS),
        )
    return shown


def _cell(damage: Damage, is_worst: bool, between: str) -> Text:
    style = next((style for least, style in _STYLES if damage.kl >= least), "")
    value = (
        "0" if damage.kl < 1e-5 else f"{damage.kl:.1e}" if damage.kl < 1e-3 else f"{damage.kl:.3f}"
    )
    changed = 100 * (1 - damage.agreement)
    share = f"{between}{changed:.1f} %" if changed else ""
    return Text(value + share, style=f"bold {style}" if is_worst else style)


def _short(name: str) -> str:
    return name.partition(".")[2] or name
