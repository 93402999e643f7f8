"""Where training scripts note things beside the weights."""

import argparse
import types
from collections.abc import Mapping
from typing import Any

__all__ = ["stated_places"]

_OPTIONS = ("args", "config", "hyper_parameters", "hparams", "opt", "meta")


def stated_places(content: object) -> tuple[Mapping[Any, Any], ...]:
    """The entries at the top, those of a whole module included, then those of its options.

    Args:
        content: of the file, read by torch or by stand-ins, which keep attributes as ``state``.
    """
    top = _entries(content)
    return (top, *(_entries(top.get(key)) for key in _OPTIONS))


def _entries(value: object) -> Mapping[Any, Any]:
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    inner = value if isinstance(value, Mapping) else getattr(value, "state", None)
    if isinstance(inner, Mapping):
        return inner
    return getattr(value, "__dict__", {})
