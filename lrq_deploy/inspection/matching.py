"""Which known architectures a state dict belongs to, by the names and shapes of its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from lrq_deploy.checkpoint.naming import strip_wrappers
from lrq_deploy.inspection.index import Index, open_index
from lrq_deploy.inspection.near import Kinship, Library, Near, Relative, kinship, nearest
from lrq_deploy.inspection.signature import FEWEST_TENSORS, fit_of, name_templates, weights_of
from lrq_deploy.inspection.subtrees import Subtree, subtrees
from lrq_deploy.progress import ProgressCallback, silent
from lrq_deploy.wording import counted

__all__ = ["LIBRARY_ORDER", "Candidate", "Match", "find_architectures"]

Shapes = Mapping[str, Sequence[int]]
LIBRARY_ORDER: tuple[Library, ...] = get_args(Library)
# Share of a file's name templates that a family must know to be searched; at this value two
# of timm's 743 networks with BatchNorm are in families that would be passed over.
_PLAUSIBLE = 0.3


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
        near: the closest architecture where none fits; ``None`` without one.
        searched: how many networks of which library were compared.
    """

    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    reason: str
    near: Near | None = None
    searched: tuple[str, ...] = ()


def find_architectures(
    shapes: Shapes, progress: ProgressCallback = silent, stated: Sequence[str] = ()
) -> Match:
    """Find the torchvision and timm networks that a state dict fits.

    torchvision goes first. timm has 17 times as many networks and repeats many of
    torchvision's under the same tensor names, so it is searched only where torchvision has none.

    Args:
        shapes: of all tensors by name.
        progress: receives the steps of building an index, the first time only.
        stated: what the file calls its network, which decides among several that fit.
    """
    weights = weights_of(strip_wrappers(shapes))
    if len(weights) < FEWEST_TENSORS:
        tensors = counted(len(weights), "tensor")
        reason = f"it has {tensors}, fewer than any network of torchvision or timm"
        return Match((), None, reason)
    prefix = _common_prefix(shapes, weights)
    trees = subtrees(weights)
    searched: list[str] = []
    relatives: list[Relative] = []
    for library in LIBRARY_ORDER:
        index = open_index(library, partial(_families, library))
        if index is None:
            searched.append(f"{library} is not installed")
            continue
        _complete(index, trees, progress)
        searched.append(_extent(index))
        found, others = _search(library, index, trees, prefix)
        if found:
            return _choose(library, found, searched, stated)
        relatives += others
    near = nearest(relatives, weights, prefix)
    reason = near.reason if near else "no known network has exactly its tensor names"
    return Match((), None, reason, near, tuple(searched))


def _families(library: str) -> dict[str, list[str]]:
    from lrq_deploy.inspection.meta_build import families

    return families(library)


def _complete(index: Index, trees: list[Subtree], progress: ProgressCallback) -> None:
    """Add the networks that may be in the file, and keep them."""
    changed = index.add_templates(progress) if len(index.families) > 1 else False
    if index.add_entries(_plausible(index, trees), progress) or changed:
        index.save()


def _search(
    library: Library, index: Index, trees: list[Subtree], prefix: str
) -> tuple[list[Candidate], list[Relative]]:
    """Networks that the file fits as a whole, and those that a part of it comes close to."""
    total = len(trees[0].shapes)
    found: dict[str, Candidate] = {}
    others: list[Relative] = []
    for tree in trees:
        for entry in (entry for entries in index.entries.values() for entry in entries):
            kin = kinship(entry, tree)
            if kin is None:
                continue
            inside = tree.part(entry.tops)
            if kin == Kinship.EXTRA and len(inside) == total:
                classes = fit_of(inside, entry).num_classes
                candidate = Candidate(
                    library, entry.name, prefix + tree.prefix, classes, entry.num_classes
                )
                found.setdefault(entry.name, candidate)
            else:
                others.append(Relative(library, entry, tree, kin))
    return sorted(found.values(), key=lambda c: (len(c.name), c.name)), others


def _plausible(index: Index, trees: list[Subtree]) -> list[str]:
    if len(index.families) == 1:
        return list(index.families)
    wanted = [name_templates(tree.shapes) for tree in trees]
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


def _choose(
    library: Library, found: list[Candidate], searched: list[str], stated: Sequence[str]
) -> Match:
    rest = "" if library == "timm" else "; timm was not searched, as torchvision goes first"
    if len(found) == 1:
        reason = f"it is the only network of {library} with these names and shapes{rest}"
        return Match(tuple(found), found[0], reason, searched=tuple(searched))
    shared = f"{len(found)} networks of {library} have these names and shapes"
    named = [candidate for candidate in found if candidate.name in stated]
    if len(named) == 1:
        reason = f"{shared}, and this is what the file, or the config.json beside it, says it is"
        return Match(tuple(found), named[0], reason, searched=tuple(searched))
    reason = (
        f"{shared} and differ in what no tensor shows, such as padding, activation or input size"
    )
    return Match(tuple(found), None, reason, searched=tuple(searched))
