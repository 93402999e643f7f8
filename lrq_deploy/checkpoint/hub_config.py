"""The ``config.json`` that timm writes beside weights for the Hugging Face Hub."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lrq_deploy.checkpoint.class_names import named_in
from lrq_deploy.checkpoint.json_beside import read_json_object
from lrq_deploy.checkpoint.stated import plain_name
from lrq_deploy.errors import CheckpointError

__all__ = ["HubConfig", "names_of", "read_hub_config"]

_NAME = "config.json"
_MOST_VALUES = 2**24  # of an image; larger ones would fill the memory before anything is checked
_LARGEST = 1e30  # a comparison holds for integers that no float can be


@dataclass(frozen=True)
class HubConfig:
    """What the file tells of the network.

    Attributes:
        path: the file.
        architecture: its name in timm, without the tag of its weights.
        stated: how it was trained, as the file has it.
        class_names: in the order of the logits; empty where it names none.
    """

    path: Path
    architecture: str
    stated: Mapping[str, Any]
    class_names: tuple[str, ...] = ()

    def known(self) -> Mapping[str, Any]:
        """How it was trained, in the terms of timm's ``pretrained_cfg``.

        Raises:
            CheckpointError: ``input_size`` (channels, height, width), ``mean`` and ``std`` (per
                channel) or ``crop_pct`` are not what they must be.
        """
        _check(self.path, self.stated)
        return self.stated


def read_hub_config(weights: Path) -> HubConfig | None:
    """The file in the folder of ``weights``; None where there is none, or another program's."""
    path = weights.parent / _NAME
    document = read_json_object(path)
    if document is None or not isinstance(document.get("architecture"), str):
        return None
    # Older ones have everything at the top.
    stated = document.get("pretrained_cfg", document)
    architecture = plain_name(document["architecture"])
    if not architecture or not isinstance(stated, dict):
        return None
    return HubConfig(path, architecture, stated, named_in(document) or named_in(stated))


def names_of(stated: Sequence[str], config: HubConfig | None) -> tuple[str, ...]:
    """All names of the network: those that its file states, and that of a ``config.json``."""
    return (*stated, *([] if config is None else [config.architecture]))


def _check(path: Path, known: Mapping[str, Any]) -> None:
    for key, (rule, holds) in _RULES.items():
        values = known.get(key)
        if values is None or holds(values):
            continue
        raise _wrong(path, f"{key} of a {_NAME} beside the weights must be {rule}", values)
    mean, std = known.get("mean") or (), known.get("std") or ()
    if len(mean) != len(std):
        rule = f"mean and std of a {_NAME} beside the weights must have as many values"
        raise _wrong(path, rule, [mean, std])


def _wrong(path: Path, rule: str, values: object) -> CheckpointError:
    return CheckpointError(
        rule,
        f"{str(values)[:60]} in {path}",
        "correct it, or quantize the weights from a folder without it",
    )


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -_LARGEST <= value <= _LARGEST


def _is_positive(value: object) -> bool:
    return _is_finite(value) and value > 0  # type: ignore[operator]


def _is_shape(value: object) -> bool:
    sides = value if isinstance(value, list) else []
    whole = len(sides) == 3 and all(isinstance(n, int) and _is_positive(n) for n in sides)
    return whole and math.prod(sides) <= _MOST_VALUES


def _each(holds: Callable[[object], bool], value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(holds, value))


_RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "input_size": (f"three whole numbers above 0, of at most {_MOST_VALUES} values", _is_shape),
    "mean": ("a list of finite numbers", partial(_each, _is_finite)),
    "std": ("a list of finite numbers above 0", partial(_each, _is_positive)),
    "crop_pct": ("a finite number above 0", _is_positive),
}
