"""What a weighted ATen call computes."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from lrq_deploy.graph.operators import LAYER_KINDS, LayerKind, arguments

__all__ = ["LayerSpec", "layer_spec", "pair"]


@dataclass(frozen=True)
class LayerSpec:
    """What a weighted layer computes, apart from its numbers.

    Attributes:
        kind: the operator.
        stride, padding, dilation, output_padding: ``(height, width)``; unused by ``linear``.
        groups: number of channel groups.
    """

    kind: LayerKind
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1

    @property
    def channel_axis(self) -> int:
        """Axis of the output channels in the weight tensor."""
        return 1 if self.kind == "conv_transpose2d" else 0

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the operator on float tensors."""
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        if self.kind == "conv2d":
            return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return F.conv_transpose2d(
            x,
            weight,
            bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


def layer_spec(node: fx.Node) -> LayerSpec:
    """What a weighted ATen call computes, from its arguments."""
    kind = LAYER_KINDS[node.target]
    args = arguments(node)
    if kind == "linear":
        return LayerSpec(kind)
    if kind == "conv2d":
        stride, padding, dilation, groups = args[3:]
        return LayerSpec(kind, pair(stride), pair(padding), pair(dilation), groups=groups)
    stride, padding, outer, groups, dilation = args[3:]
    return LayerSpec(kind, pair(stride), pair(padding), pair(dilation), pair(outer), groups)


def pair(value: Any) -> tuple[int, int]:
    """``(height, width)`` of an argument that may state one number for both."""
    sizes = [value] if isinstance(value, int) else value
    return int(sizes[0]), int(sizes[-1])
