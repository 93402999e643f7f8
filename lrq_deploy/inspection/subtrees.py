"""Parts of a state dict in which a whole network may lie."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from lrq_deploy.inspection.signature import FEWEST_TENSORS, first_word, names_hash

__all__ = ["Subtree", "subtrees"]

_MAX_DEPTH = 4

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Subtree:
    """The tensors below one module.

    Attributes:
        prefix: what stands before their names in the file; empty for the whole file.
        shapes: by name without the prefix.
    """

    prefix: str
    shapes: dict[str, Sizes]

    @cached_property
    def tops(self) -> frozenset[str]:
        """First words of the names."""
        return frozenset(first_word(name) for name in self.shapes)

    @cached_property
    def _hashes(self) -> dict[tuple[str, ...], str]:
        return {}

    def part(self, tops: Collection[str]) -> dict[str, Sizes]:
        """The tensors below some of the first words."""
        return {name: shape for name, shape in self.shapes.items() if first_word(name) in tops}

    def names_hash(self, tops: tuple[str, ...]) -> str:
        """Hash of the names of ``part(tops)``; empty where one of ``tops`` is missing."""
        if not self.tops.issuperset(tops):
            return ""
        if tops not in self._hashes:
            self._hashes[tops] = names_hash(self.part(tops))
        return self._hashes[tops]


def subtrees(shapes: Mapping[str, Sizes]) -> list[Subtree]:
    """The whole state dict, then every part below one module that is large enough."""
    return _below("", dict(shapes), _MAX_DEPTH)


def _below(prefix: str, shapes: dict[str, Sizes], depth: int) -> list[Subtree]:
    found = [Subtree(prefix, shapes)]
    parts: dict[str, dict[str, Sizes]] = {}
    for name, shape in shapes.items():
        top, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(top, {})[rest] = shape
    for top, part in parts.items():
        if depth > 0 and len(part) >= FEWEST_TENSORS:
            found += _below(f"{prefix}{top}.", part, depth - 1)
    return found
