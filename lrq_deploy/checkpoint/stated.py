"""Names of the architecture that a training script saved beside the weights."""

import argparse
import types
from collections.abc import Mapping
from typing import Any

__all__ = ["plain_name", "stated_architectures"]

_KEYS = ("arch", "architecture", "model_name", "model")
_OPTIONS = ("args", "config", "hyper_parameters", "hparams", "opt")
_MAX_LENGTH = 100


def stated_architectures(content: object) -> tuple[str, ...]:
    """What a checkpoint calls its network, as timm's and torchvision's scripts and others do.

    A name tells networks apart whose tensors are alike; it does not stand above the tensors.

    Args:
        content: of the file, read by torch or by stand-ins, which keep a namespace's attributes
            as ``state``.
    """
    places = [_entries(content)]
    places += [_entries(places[0].get(key)) for key in _OPTIONS]
    names = [place.get(key) for place in places for key in _KEYS]
    found = [plain_name(name) for name in names if isinstance(name, str)]
    return tuple(dict.fromkeys(name for name in found if name))


def plain_name(name: str) -> str:
    """``timm/resnet50.a1_in1k`` is ``resnet50``; empty for what is no name."""
    plain = name.strip().rpartition("/")[2].partition(".")[0]
    return plain if len(plain) <= _MAX_LENGTH and plain.isidentifier() else ""


def _entries(value: object) -> Mapping[Any, Any]:
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    inner = value if isinstance(value, Mapping) else getattr(value, "state", None)
    return inner if isinstance(inner, Mapping) else {}
