"""torch's restricted reader, with inert objects in place of harmless classes."""

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lrq_deploy.checkpoint.pickle_globals import INERT_GLOBALS
from lrq_deploy.errors import CheckpointError

__all__ = ["SAVE_AGAIN", "StandIns", "first_line", "inert_stand_ins", "unpickle_tensors"]

SAVE_AGAIN = "save it again with torch.save(model.state_dict(), path)"

StandIns = list[Callable[..., Any] | tuple[Callable[..., Any], str]]
"""What the reader calls, and the global that it stands for."""


class _Inert:
    """Takes the place of a harmless global, so that not even its own code runs."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Namespace(_Inert):
    """Keeps its attributes as ``state``: a training script's options name its network."""

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Inert):
    """Tells an array from other leftovers, for the message where there are no tensors."""

    qualified_name = "numpy.ndarray"


def _dictionary(*_: object) -> dict[Any, Any]:
    return {}


def _list(*_: object) -> list[Any]:
    return []


# torch's reader fills no other types than the first two.
_STAND_INS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _dictionary,
    "collections.deque": _list,
    "argparse.Namespace": _Namespace,
    "types.SimpleNamespace": _Namespace,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
}


def _modern(name: str) -> str:
    """The name that ``torch.load`` looks up for one that Python 2 would write."""
    return name.replace("__builtin__.", "builtins.").replace(".xrange", ".range")


def inert_stand_ins(names: Iterable[str]) -> StandIns:
    """Of those globals that are known to be harmless."""
    modern = map(_modern, names)
    return [(_STAND_INS.get(name, _Inert), name) for name in modern if name in INERT_GLOBALS]


def unpickle_tensors(
    source: Path | BinaryIO, path: Path, stand_ins: StandIns, mapped: bool = False
) -> object:
    """Content of an archive of ``torch.save``, of which no code runs.

    Args:
        source: the archive.
        path: for messages.
        stand_ins: for its globals that torch does not know.
        mapped: leave the tensors in the file until they are read.

    Raises:
        CheckpointError: damaged, or it holds more than tensors.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "a checkpoint must hold tensors only",
            f"{path}, which PyTorch's restricted reader refuses: {first_line(error)}",
            SAVE_AGAIN,
        ) from error
    # A damaged archive surfaces as nearly any type, from KeyError to RuntimeError.
    except Exception as error:
        raise CheckpointError(
            "the checkpoint must be intact",
            f"{path}: {type(error).__name__}: {first_line(error)}",
            "copy or download it again, or " + SAVE_AGAIN,
        ) from error
    _forget_attributes(content)
    return content


def _forget_attributes(content: object) -> None:
    """Those of mappings, which torch takes from the file: one may be called ``items``."""
    pending, seen = [content], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, OrderedDict):
                vars(value).clear()
            pending.extend(value.values())


def first_line(error: BaseException) -> str:
    """Of what it says, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
