"""The known network that comes closest to a state dict which fits none, and what is different."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from lrq_deploy.inspection.head_example import Head, head_example
from lrq_deploy.inspection.signature import Entry, fit_of, shapes_hash, weights_of
from lrq_deploy.inspection.subtrees import Subtree
from lrq_deploy.wording import counted, printable, shape_text

__all__ = ["Kinship", "Library", "Near", "Relative", "kinship", "nearest"]

Library = Literal["torchvision", "timm"]
"""Those whose networks are compared; one that fits of the first is chosen before the next."""
Sizes = tuple[int, ...]

_COMPARED = 8
_SHOWN_NAMES = 3


class Kinship(IntEnum):
    """How close a known network is, the closest first."""

    EXTRA = 0
    """It fits, and other tensors lie beside it."""
    HEAD = 1
    """It fits but for its classifier."""
    SHAPES = 2
    """Its names fit, not its shapes."""
    HEAD_AND_SHAPES = 3
    """Its names fit but for those of its classifier, and not its shapes."""


@dataclass(frozen=True)
class Relative:
    """A known network whose names are in a part of a state dict."""

    library: Library
    entry: Entry
    tree: Subtree
    kinship: Kinship

    @property
    def spec(self) -> str:
        """Value of ``--arch``."""
        return f"{self.library}:{self.entry.name}"


@dataclass(frozen=True)
class Near:
    """The closest known network.

    Attributes:
        specs: values of ``--arch``; several where no tensor tells them apart.
        kinship: how close it is.
        prefix: what stands before its names in the file.
        reason: what fits and what does not.
        differences: every tensor that keeps it from fitting.
        outside: names in the file of what lies beside it.
        num_classes: of the part of the file that fits; ``None`` where only its body does.
        example: Python file with a factory to start from; empty where the network is a known one.
    """

    specs: tuple[str, ...]
    kinship: Kinship
    prefix: str
    reason: str
    differences: tuple[str, ...]
    outside: tuple[str, ...] = ()
    num_classes: int | None = None
    example: str = ""

    @property
    def spec(self) -> str:
        """The first of ``specs``."""
        return self.specs[0]


def kinship(entry: Entry, tree: Subtree) -> Kinship | None:
    """How a part of a state dict relates to a known network; ``None`` for not at all."""
    if tree.names_hash(entry.tops) == entry.names:
        fits = fit_of(tree.part(entry.tops), entry).shapes_fit
        return Kinship.EXTRA if fits else Kinship.SHAPES
    if entry.body_names and tree.names_hash(entry.body_tops) == entry.body_names:
        fits = shapes_hash(tree.part(entry.body_tops)) == entry.body_shapes
        return Kinship.HEAD if fits else Kinship.HEAD_AND_SHAPES
    return None


def nearest(
    relatives: Sequence[Relative], weights: Mapping[str, Sizes], before: str
) -> Near | None:
    """The closest of several networks, those of the first library preferred.

    Args:
        relatives: in the order in which libraries are preferred.
        weights: of the whole file.
        before: what stood before every name in the file.
    """
    if not relatives:
        return None
    closest = min(relative.kinship for relative in relatives)
    pool = [r for r in relatives if r.kinship == closest]
    pool = [r for r in pool if r.library == pool[0].library]
    pool.sort(key=lambda r: (len(r.entry.name), r.entry.name))
    if closest == Kinship.EXTRA:
        return _with_extra(pool, weights, before)
    compared = [(relative, _differences(relative, weights)) for relative in pool[:_COMPARED]]
    relative, found = min(compared, key=lambda item: len(item[1]))
    return _other(relative, found, weights, before)


def _with_extra(pool: list[Relative], weights: Mapping[str, Sizes], before: str) -> Near:
    first = pool[0]
    inside, prefix = first.tree.part(first.entry.tops), before + first.tree.prefix
    own = {first.tree.prefix + name for name in inside}
    outside = tuple(before + name for name in weights if name not in own)
    place = f" under {prefix!r}" if prefix else ""
    more = f" and {len(outside) - _SHOWN_NAMES} more" if len(outside) > _SHOWN_NAMES else ""
    reason = (
        f"{len(inside)} tensors{place} are those of {first.spec}; tensors outside of it: "
        f"{len(outside)} ({', '.join(map(printable, outside[:_SHOWN_NAMES]))}{more})"
    )
    same = [r for r in pool if r.entry.name == first.entry.name]
    copies = [before + r.tree.prefix for r in same[1:]]
    if copies:
        reason += f"; those under {', '.join(map(repr, copies))} are another copy"
    return Near(
        specs=tuple(dict.fromkeys(r.spec for r in pool if r.tree.prefix == first.tree.prefix)),
        kinship=Kinship.EXTRA,
        prefix=prefix,
        reason=reason,
        differences=(),
        outside=outside,
        num_classes=fit_of(inside, first.entry).num_classes,
    )


def _other(relative: Relative, found: list[str], weights: Mapping[str, Sizes], before: str) -> Near:
    prefix = before + relative.tree.prefix
    place = f" under {prefix!r}" if prefix else ""
    if relative.kinship == Kinship.SHAPES:
        reason = f"it has the tensor names of {relative.spec}{place} but other shapes"
        return Near(
            (relative.spec,), relative.kinship, prefix, _counted(reason, found), tuple(found)
        )
    reason = f"its body{place} is that of {relative.spec} and its head is another one"
    if relative.kinship == Kinship.HEAD_AND_SHAPES:
        reason = (
            f"its body{place} has the tensor names of {relative.spec}, but shapes and head differ"
        )
    head, outside = _beside(relative, weights)
    return Near(
        specs=(relative.spec,),
        kinship=relative.kinship,
        prefix=prefix,
        reason=_counted(reason, found),
        differences=tuple(found),
        outside=tuple(before + name for name in outside),
        example=head_example(relative.library, relative.entry, relative.tree.prefix, head, outside),
    )


def _counted(reason: str, found: list[str]) -> str:
    return f"{reason} ({counted(len(found), 'tensor')})"


def _beside(relative: Relative, weights: Mapping[str, Sizes]) -> tuple[Head, Head]:
    """What else a file holds: at the top of the network's part, and outside of that part."""
    entry, tree = relative.entry, relative.tree
    tops = entry.tops if relative.kinship == Kinship.SHAPES else entry.body_tops
    own = tree.part(tops)
    at_top = {name: shape for name, shape in tree.shapes.items() if name not in own}
    return at_top, {n: s for n, s in weights.items() if not n.startswith(tree.prefix)}


def _differences(relative: Relative, weights: Mapping[str, Sizes]) -> list[str]:
    """Tensors of another shape, then those that the file or the network has alone."""
    from lrq_deploy.inspection.meta_build import meta_shapes

    entry, tree = relative.entry, relative.tree
    wanted = weights_of(meta_shapes(relative.library, entry.name))
    # The number of classes is the user's, unless the classifier is another one anyway.
    free = entry.class_tensors if relative.kinship == Kinship.SHAPES else ()
    found = []
    for name, shape in wanted.items():
        own = tree.shapes.get(name, shape)
        if own[name in free :] != shape[name in free :]:
            sizes = f"file {shape_text(own)}, {entry.name} {shape_text(shape)}"
            found.append(f"{printable(tree.prefix + name)} ({sizes})")
    at_top, outside = _beside(relative, weights)
    alone = {tree.prefix + name: shape for name, shape in at_top.items() if name not in wanted}
    for name, shape in (*alone.items(), *outside.items()):
        found.append(f"{printable(name)} (only in the file, {shape_text(shape)})")
    missing = [name for name in wanted if name not in tree.shapes]
    return found + [
        f"{name} (only in {entry.name}, {shape_text(wanted[name])})" for name in missing
    ]
