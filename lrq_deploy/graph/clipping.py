"""Analysis: the limits of a clipping activation, whichever operator states them."""

import torch
from torch import fx

from lrq_deploy.graph.operators import arguments, is_call

__all__ = ["Limits", "clip_limits", "narrower"]

aten = torch.ops.aten


Limits = tuple[float | None, float | None]
"""Smallest and largest value, where there is one."""


def clip_limits(node: fx.Node) -> Limits | None:
    """Clip limits ``(low, high)`` of a rectifier; ``None`` where the node is none."""
    if is_call(node, {aten.relu.default}):
        return 0.0, None
    if is_call(node, {aten.relu6.default}):
        return 0.0, 6.0
    if is_call(node, {aten.clamp_max.default}):
        return None, _number(node.args[1])
    if is_call(node, {aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default}):
        low, high = [*arguments(node)[1:], None][:2]
        return _number(low), _number(high)
    return None


def narrower(first: Limits, second: Limits) -> Limits:
    """The limits of two clips, one behind the other, that leave each other some room."""
    ends = zip(first, second, strict=True)
    lows, highs = ([limit for limit in pair if limit is not None] for pair in ends)
    return max(lows, default=None), min(highs, default=None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
