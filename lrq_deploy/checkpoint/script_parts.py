"""What a TorchScript archive's pickle is made of; loads no torch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from lrq_deploy.checkpoint.pickle_globals import PickleGlobals

__all__ = ["CLASSES", "HELPERS", "foreign_globals", "script_tensors"]

T = TypeVar("T")

CLASSES = "__torch__."
"""Before the names of the classes that an archive defines."""

HELPERS = "torch.jit._pickle."
"""Before those of functions that give back their first argument with another type."""

# Parts of a hostile file may contain each other: without bounds the names would never end.
_MAX_PARTS = 20_000
_MAX_PREFIX = 1_000


def foreign_globals(found: PickleGlobals) -> list[str]:
    """Those that are neither tensors nor what the archive itself defines."""
    return [name for name in found.unsafe if not name.startswith((CLASSES, HELPERS))]


def script_tensors(
    root: object, state_of: Callable[[object], Mapping[Any, Any] | None], kind: type[T]
) -> Iterator[tuple[str, T]]:
    """Values of ``kind`` below ``root``, each with the path of attributes that leads to it.

    Args:
        root: the network.
        state_of: attributes of a part by name; None for what is no part.
        kind: of the values.
    """
    pending: list[tuple[str, object]] = [("", root)]
    for _ in range(_MAX_PARTS):
        if not pending:
            return
        prefix, part = pending.pop()
        state = None if len(prefix) > _MAX_PREFIX else state_of(part)
        if state is None:
            continue
        named = [(f"{prefix}{name}", value) for name, value in state.items()]
        yield from ((name, value) for name, value in named if isinstance(value, kind))
        pending.extend((f"{name}.", value) for name, value in reversed(named))
