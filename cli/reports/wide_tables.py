"""Tables with a row per layer: whole rows in a log, a list where a terminal is too narrow."""

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["keeps_to_its_width", "print_rows"]

_ROOM_FOR_A_NAME = 16
_UNLIMITED = 10_000


def keeps_to_its_width(console: Console) -> bool:
    """Whether somebody sees, or asked for, a width: rich makes one up for a pipe or a file."""
    return console.is_terminal or "COLUMNS" in os.environ


def print_rows(
    console: Console, table: Table, folding: Sequence[Sequence[str]], lines: Sequence[Text]
) -> None:
    """Print a table of which only the names may fold.

    Args:
        console: where to write.
        table: its other columns do not wrap.
        folding: names of each column that folds; in a log, which is searched by them, none does.
        lines: the rows in words, printed where numbers would not fit beside folded names.
    """
    options = console.options.update(width=_UNLIMITED)
    whole = console.measure(table, options=options).maximum
    longest = [max((len(name) for name in names), default=0) for names in folding]
    least = whole - sum(max(length - _ROOM_FOR_A_NAME, 0) for length in longest)
    if not keeps_to_its_width(console):
        width = console.width
        console.width = max(width, whole)
        console.print(table)
        console.width = width
    elif least <= console.width:
        console.print(table)
    else:
        for line in lines:
            console.print(line)
        console.print()
