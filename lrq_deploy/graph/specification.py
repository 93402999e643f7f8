"""What a weighted ATen call computes."""

from typing import Any

from torch import fx

from lrq_deploy.graph.operators import LAYER_KINDS
from lrq_deploy.student.frozen import LayerSpec

__all__ = ["layer_spec"]


def layer_spec(node: fx.Node) -> LayerSpec:
    """What a weighted ATen call computes, from its arguments."""
    kind = LAYER_KINDS[node.target]
    args: list[Any] = list(node.args)
    if kind == "linear":
        return LayerSpec(kind)
    if kind == "conv2d":
        stride, padding, dilation, groups = [*args[3:], *[None] * 4][:4]
        return LayerSpec(
            kind, _pair(stride, 1), _pair(padding, 0), _pair(dilation, 1), groups=groups or 1
        )
    stride, padding, output_padding, groups, dilation = [*args[3:], *[None] * 5][:5]
    return LayerSpec(
        kind,
        _pair(stride, 1),
        _pair(padding, 0),
        _pair(dilation, 1),
        _pair(output_padding, 0),
        groups or 1,
    )


def _pair(value: Any, default: int) -> tuple[int, int]:
    if value is None:
        return (default, default)
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))
