"""The ``config.json`` that timm writes beside weights for the Hugging Face Hub."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.checkpoint.stated import plain_name
from lrq_deploy.errors import CheckpointError

__all__ = ["HubConfig", "read_hub_config"]

_NAME = "config.json"
_MAX_BYTES = 2**22


@dataclass(frozen=True)
class HubConfig:
    """What the file tells of the network.

    Attributes:
        architecture: its name in timm, without the tag of its weights.
        known: how it was trained, in the terms of timm's ``pretrained_cfg``: ``input_size``
            (channels, height, width), ``mean`` and ``std`` per channel are checked.
    """

    architecture: str
    known: Mapping[str, Any]


def read_hub_config(weights: Path) -> HubConfig | None:
    """The file in the folder of ``weights``; None where there is none, or another program's.

    Raises:
        CheckpointError: it is timm's, and its numbers are not what they must be.
    """
    path = weights.parent / _NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("architecture"), str):
        return None
    # Older ones have everything at the top.
    known = document.get("pretrained_cfg", document)
    architecture = plain_name(document["architecture"])
    if not architecture or not isinstance(known, dict):
        return None
    _check(path, known)
    return HubConfig(architecture, known)


def _check(path: Path, known: Mapping[str, Any]) -> None:
    for key, (rule, holds) in _RULES.items():
        values = known.get(key)
        if values is None or (isinstance(values, list) and values and holds(values)):
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


def _is_shape(values: list[Any]) -> bool:
    return len(values) == 3 and all(isinstance(n, int) and n > 0 for n in values)


def _are_finite(values: list[Any]) -> bool:
    numbers = [x for x in values if isinstance(x, int | float) and not isinstance(x, bool)]
    return len(numbers) == len(values) and all(map(math.isfinite, numbers))


def _are_positive(values: list[Any]) -> bool:
    return _are_finite(values) and min(values) > 0


_RULES: dict[str, tuple[str, Callable[[list[Any]], bool]]] = {
    "input_size": ("three whole numbers above 0", _is_shape),
    "mean": ("finite numbers", _are_finite),
    "std": ("finite numbers above 0", _are_positive),
}
