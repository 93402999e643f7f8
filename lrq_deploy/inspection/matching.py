"""Which known architectures a state dict belongs to, by the names and shapes of its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lrq_deploy.checkpoint.naming import strip_wrappers, without_prefixes
from lrq_deploy.inspection.index import Index, open_index
from lrq_deploy.inspection.signature import (
    Entry,
    fit_of,
    name_templates,
    names_hash,
    weights_of,
)
from lrq_deploy.progress import ProgressCallback, silent

__all__ = ["LIBRARY_ORDER", "Candidate", "Match", "find_architectures"]

Shapes = Mapping[str, Sequence[int]]
Library = Literal["torchvision", "timm"]

LIBRARY_ORDER: tuple[Library, ...] = ("torchvision", "timm")
# AlexNet is the smallest of both libraries.
_FEWEST_TENSORS = 16
# Share of a file's name templates that a family must know to be searched; at this value two
# of timm's 743 networks with BatchNorm are in families that would be passed over.
_PLAUSIBLE = 0.3
_SHOWN_DIFFERENCES = 5
_COMPARED = 8


@dataclass(frozen=True)
class Candidate:
    """An architecture that fits a state dict.

    Attributes:
        library: ``torchvision`` or ``timm``.
        name: as the library calls it.
        prefix: what stands before every name in the file.
        num_classes: of the file; ``None`` for a network without a classifier.
        default_classes: that the library builds unless told otherwise.
    """

    library: Library
    name: str
    prefix: str
    num_classes: int | None
    default_classes: int

    @property
    def spec(self) -> str:
        """Value of ``--arch``."""
        return f"{self.library}:{self.name}"


@dataclass(frozen=True)
class Match:
    """What the search for an architecture found.

    Attributes:
        candidates: architectures that fit, in the order in which libraries are preferred.
        chosen: the one that ``quantize`` takes without being told; ``None`` if it must be told.
        reason: why it is chosen, or why none is.
        near: an architecture of the same names but other shapes; empty without one.
        differences: first tensors that keep ``near`` from fitting.
        searched: how many networks of which library were compared.
    """

    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    reason: str
    near: str = ""
    differences: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()


def find_architectures(shapes: Shapes, progress: ProgressCallback = silent) -> Match:
    """Find the torchvision and timm networks that a state dict fits.

    torchvision goes first. timm has 17 times as many networks and repeats many of
    torchvision's under the same tensor names, so it is searched only where torchvision has none.

    Args:
        shapes: of all tensors by name.
        progress: receives the steps of building an index, the first time only.
    """
    weights = weights_of(strip_wrappers(shapes))
    if len(weights) < _FEWEST_TENSORS:
        reason = f"it has {len(weights)} tensors, fewer than any network of torchvision or timm"
        return Match((), None, reason)
    prefix = _common_prefix(shapes, weights)
    searched: list[str] = []
    near: tuple[Library, list[Entry]] | None = None
    for library in LIBRARY_ORDER:
        index = open_index(library, partial(_families, library))
        if index is None:
            searched.append(f"{library} is not installed")
            continue
        found, close = _search(library, index, weights, prefix, progress)
        searched.append(_extent(index))
        if found:
            return _choose(library, found, searched)
        if close and near is None:
            near = (library, close)
    return _none(near, weights, searched)


def _families(library: str) -> dict[str, list[str]]:
    from lrq_deploy.inspection.meta_build import families

    return families(library)


def _search(
    library: Library,
    index: Index,
    weights: dict[str, tuple[int, ...]],
    prefix: str,
    progress: ProgressCallback,
) -> tuple[list[Candidate], list[Entry]]:
    """Candidates, and the networks of the same names but other shapes."""
    forms = without_prefixes(weights)
    changed = index.add_templates(progress) if len(index.families) > 1 else False
    changed = index.add_entries(_plausible(index, forms), progress) or changed
    if changed:
        index.save()
    by_names: dict[str, list[Entry]] = {}
    for entries in index.entries.values():
        for entry in entries:
            by_names.setdefault(entry.names, []).append(entry)
    found: dict[str, Candidate] = {}
    near: list[Entry] = []
    for form in forms:
        stripped = len(next(iter(weights))) - len(next(iter(form)))
        before = prefix + next(iter(weights))[:stripped]
        for entry in by_names.get(names_hash(form), []):
            fit = fit_of(form, entry)
            if fit.shapes_fit:
                candidate = Candidate(
                    library, entry.name, before, fit.num_classes, entry.num_classes
                )
                found.setdefault(entry.name, candidate)
            else:
                near.append(entry)
    return sorted(found.values(), key=lambda c: (len(c.name), c.name)), near


def _plausible(index: Index, forms: list[dict[str, tuple[int, ...]]]) -> list[str]:
    if len(index.families) == 1:
        return list(index.families)
    wanted = [name_templates(form) for form in forms]
    return [
        family
        for family, known in index.templates.items()
        if any(len(names & known) >= _PLAUSIBLE * len(names) for names in wanted)
    ]


def _extent(index: Index) -> str:
    total = sum(len(names) for names in index.families.values())
    known = sum(len(index.families[f]) for f in index.entries if f in index.families)
    extent = f"all {total}" if known == total else f"{known} of {total}"
    return f"{extent} networks of {index.library} {index.version}"


def _common_prefix(shapes: Shapes, stripped: Mapping[str, object]) -> str:
    """What ``strip_wrappers`` took from the first name that is in both."""
    first = next(iter(stripped))
    original = next((name for name in shapes if name.endswith(first)), first)
    return original.removesuffix(first)


def _choose(library: Library, found: list[Candidate], searched: list[str]) -> Match:
    rest = "" if library == "timm" else "; timm was not searched, as torchvision goes first"
    if len(found) == 1:
        reason = f"it is the only network of {library} with these names and shapes{rest}"
        return Match(tuple(found), found[0], reason, searched=tuple(searched))
    reason = (
        f"{len(found)} networks of {library} have these names and shapes and differ in what no "
        "tensor shows, such as padding, activation or input size"
    )
    return Match(tuple(found), None, reason, searched=tuple(searched))


def _none(
    near: tuple[Library, list[Entry]] | None,
    weights: dict[str, tuple[int, ...]],
    searched: list[str],
) -> Match:
    if near is None:
        return Match((), None, "no known network has its tensor names", searched=tuple(searched))
    library, entries = near
    compared = [(e.name, _differences(library, e, weights)) for e in entries[:_COMPARED]]
    name, differences = min(compared, key=lambda item: len(item[1]))
    spec = f"{library}:{name}"
    reason = f"it has the tensor names of {spec} but other shapes ({len(differences)} tensors)"
    return Match((), None, reason, spec, tuple(differences[:_SHOWN_DIFFERENCES]), tuple(searched))


def _differences(library: Library, entry: Entry, weights: dict[str, tuple[int, ...]]) -> list[str]:
    """Tensors of another shape than the network's, the number of classes left open."""
    from lrq_deploy.inspection.meta_build import meta_shapes

    wanted = weights_of(meta_shapes(library, entry.name))
    form = max(without_prefixes(weights), key=lambda f: len(f.keys() & wanted.keys()))
    return [
        f"{tensor} (file {_sizes(form[tensor])}, {entry.name} {_sizes(shape)})"
        for tensor, shape in wanted.items()
        if tensor in form and _fixed(form[tensor], tensor, entry) != _fixed(shape, tensor, entry)
    ]


def _fixed(shape: tuple[int, ...], tensor: str, entry: Entry) -> tuple[int, ...]:
    return shape[1:] if tensor in entry.class_tensors else shape


def _sizes(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"
