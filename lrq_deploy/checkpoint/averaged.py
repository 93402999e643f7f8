"""Averaged weights (EMA, SWA) that a training script saved beside those that are read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.checkpoint.naming import sets_of_weights
from lrq_deploy.checkpoint.saving import loading_expression

__all__ = ["AveragedWeights", "averaged_weights"]

_AVERAGED = re.compile(r"(?:^|[._-])(?:ema|swa|avg|averaged?)(?:$|[._-])", re.IGNORECASE)


@dataclass(frozen=True)
class AveragedWeights:
    """A second set of weights, which nothing reads unless it is saved alone.

    Attributes:
        location: keys that lead to it, joined by dots.
        python: a line of Python that saves it alone.
    """

    location: str
    python: str

    @property
    def sentence(self) -> str:
        """What the user should know of it."""
        return (
            f"averaged weights lie under {self.location} beside those that are read; reported "
            "accuracies are often theirs"
        )

    def remark(self) -> str:
        """The same with what to do, in one text."""
        return f"{self.sentence}. To quantize them, save them alone: {self.python}"


def averaged_weights(
    content: object,
    keys: Sequence[str],
    path: Path,
    is_module: Callable[[object], bool],
    is_tensor: Callable[[object], bool],
    plain: bool,
) -> AveragedWeights | None:
    """The first set of averaged weights beside those that ``keys`` lead to, if any.

    Args:
        content: of the file.
        keys: product of ``place_of_weights``; none where they are averaged themselves.
        path: the file.
        is_module, is_tensor: what counts as either.
        plain: whether ``torch.load`` reads the file with ``weights_only=True``.
    """
    if any(_AVERAGED.search(key) for key in keys):
        return None
    for depth, key in enumerate(keys):
        beside = {
            name: value
            for name, value in _mapping(content).items()
            if isinstance(name, str) and _AVERAGED.search(name)
        }
        found = sets_of_weights(beside, is_module, is_tensor)
        if found:
            place = (*keys[:depth], *found[0])
            is_whole = is_module(_at(content, found[0]))
            return AveragedWeights(".".join(place), _saving(path, place, is_whole, plain))
        content = _mapping(content)[key]
    return None


def _mapping(content: object) -> Mapping[Any, object]:
    return content if isinstance(content, Mapping) else {}


def _at(content: object, keys: Sequence[str]) -> object:
    for key in keys:
        content = _mapping(content)[key]
    return content


def _saving(path: Path, keys: Sequence[str], is_whole: bool, plain: bool) -> str:
    target = f"{path.name.partition('.')[0]}-averaged.pt"
    loaded = loading_expression(path, keys, plain, is_whole)
    return f"import torch; torch.save({loaded}, {target!r})"
