"""How an inspection is shown: the file, its network, its tensors, and what to do."""

from collections import Counter
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrq_deploy.cli.flags.quantize_flags import run_command
from lrq_deploy.cli.reports.wide_tables import print_rows
from lrq_deploy.inspection.advice import advise, shown_differences
from lrq_deploy.inspection.inspect import Inspection
from lrq_deploy.inspection.outline import TensorOutline
from lrq_deploy.wording import printable, shape_text, size_text

__all__ = ["print_inspection"]

_FIRST_TENSORS = 8
_LAST_TENSORS = 4
_SHOWN_GLOBALS = 10
_SHOWN_CANDIDATES = 6
_SHOWN_CLASSES = 10


def print_inspection(console: Console, found: Inspection, all_tensors: bool = False) -> None:
    """Print an inspection.

    Args:
        console: where to write; lines stay within its width, commands are never wrapped.
        found: product of the inspection.
        all_tensors: show every tensor.
    """
    console.print(_facts(found))
    _print_tensors(console, found.outline.tensors, all_tensors)
    advice = advise(found)
    console.print(Text(advice.sentence))
    if advice.python:
        runs = ", which runs the code in the file" if found.outline.unsafe_globals else ""
        _command(console, f"\nIn Python{runs}:", [advice.python])
    averaged = found.outline.averaged
    if averaged:
        said = averaged.sentence[0].upper() + averaged.sentence[1:]
        _command(console, f"\n{said}. In Python, to save them alone:", [averaged.python])
    if advice.example:
        _command(console, "\nA Python file to start from:", advice.example.splitlines())
    if advice.runs:
        title = "\nNext:" if len(advice.runs) == 1 else "\nNext, one of:"
        _command(console, title, [run_command(run) for run in advice.runs])


def _command(console: Console, title: str, lines: list[str]) -> None:
    console.print(title, highlight=False, markup=False)
    for line in lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _facts(found: Inspection) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for title, value in (*_file_rows(found), *_network_rows(found), *_match_rows(found)):
        table.add_row(title, Text(value))
    return table


def _file_rows(found: Inspection) -> Iterator[tuple[str, str]]:
    outline = found.outline
    yield "file", f"{found.path}, {size_text(found.size_bytes)}"
    yield "what it is", outline.description
    yield "written by", outline.written_by
    if outline.location:
        yield "weights under", printable(outline.location, 200)
    if outline.beside:
        yield "beside them", ", ".join(outline.beside)
    if outline.module_class:
        yield "class", outline.module_class
    yield from outline.facts.items()
    if outline.unsafe_globals:
        names = outline.unsafe_globals
        more = len(names) - _SHOWN_GLOBALS
        shown = ", ".join(names[:_SHOWN_GLOBALS]) + (f" and {more} more" if more > 0 else "")
        yield "wants to run", f"{shown} (nothing was executed)"
    elif found.kind == "torchscript":
        yield "code inside", "TorchScript (it was not run)"
    elif found.kind != "onnx":
        yield "code inside", "none"


def _network_rows(found: Inspection) -> Iterator[tuple[str, str]]:
    dtypes = Counter(tensor.dtype for tensor in found.outline.tensors.values())
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.most_common())
    yield "tensors", f"{len(found.outline.tensors)} ({kinds or 'none'})"
    yield "parameters", f"{found.parameters:,}"
    yield "BatchNorm layers", str(found.batch_norms) if found.kind != "onnx" else "not told"
    yield "classes", _or_unknown(found.num_classes)
    if found.class_names:
        more = len(found.class_names) - _SHOWN_CLASSES
        shown = ", ".join(found.class_names[:_SHOWN_CLASSES])
        yield "named", shown + (f" and {more} more" if more > 0 else "")
    yield "input channels", _or_unknown(found.input_channels)


def _or_unknown(number: int | None) -> str:
    return "not told" if number is None else str(number)


def _match_rows(found: Inspection) -> Iterator[tuple[str, str]]:
    match = found.match
    if found.described:
        yield "network", f"{found.described} of transformers, by the config.json beside it"
    if match.candidates:
        shown = ", ".join(c.spec for c in match.candidates[:_SHOWN_CANDIDATES])
        more = len(match.candidates) - _SHOWN_CANDIDATES
        yield "fits", shown + (f" and {more} more" if more > 0 else "")
        first = match.candidates[0]
        if first.prefix:
            yield "", f"without the prefix {first.prefix!r}"
        if first.num_classes != first.default_classes:
            yield "", f"with {first.num_classes} classes instead of {first.default_classes}"
    elif match.searched:
        yield "fits", "no known architecture"
    if match.near:
        place = f" under {match.near.prefix!r}" if match.near.prefix else ""
        yield "closest", match.near.spec + place
        for number, difference in enumerate(shown_differences(match.near)):
            yield "differs in" if number == 0 else "", difference
    if match.searched:
        yield "compared with", ", ".join(match.searched)


def _print_tensors(console: Console, tensors: dict[str, TensorOutline], everything: bool) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", justify="right", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    rows = list(_tensors(tensors, everything))
    for row in rows:
        table.add_row(*map(Text, row))
    lines = [Text(" ".join(part for part in row if part)) for row in rows]
    print_rows(console, table, [[name for name, _, _ in rows]], lines)


def _tensors(tensors: dict[str, TensorOutline], everything: bool) -> Iterator[tuple[str, str, str]]:
    """Name, shape and dtype of each that is shown."""
    names = list(tensors)
    hidden = len(names) - _FIRST_TENSORS - _LAST_TENSORS
    for position, name in enumerate(names):
        if not everything and hidden > 1:
            if position == _FIRST_TENSORS:
                yield f"... {hidden} more (--all)", "", ""
            if _FIRST_TENSORS <= position < len(names) - _LAST_TENSORS:
                continue
        shape, dtype = shape_text(tensors[name].shape), printable(tensors[name].dtype)
        yield printable(name, 200), shape, dtype
