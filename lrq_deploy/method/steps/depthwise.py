"""Depthwise convolutions of small maps, whose weights get their gradient from one product.

A weight's gradient is a sum over the pairs of pixels that it joins. On small maps all pairs of a
channel are a small matrix, ``sum over images of x * g``: one matrix product per channel makes it.
CPU kernels visit tap by tap instead: 157 ms beside 14 for 7x7 taps on 1152x64x6x6 (two threads of
an AMD EPYC with AVX2), and no less for maps of 10 x 10, where the matrix has 100 x 100 pairs.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["depthwise"]

MOST_PIXELS = 64
"""Of a map; beyond, all pairs are so many more than those that a tap joins that nothing is won."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Depthwise convolution of odd size, padded to keep that of the map.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[C, 1, K, K]``.
        bias: ``[C]`` or None.
    """
    if x.shape[2] * x.shape[3] > MOST_PIXELS or x.is_cuda:
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=len(weight))
    result: Tensor = _SmallDepthwise.apply(x, weight, bias)
    return result


class _SmallDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            back = weight.flip(2, 3)
            of_x = F.conv2d(gradient, back, padding=weight.shape[2] // 2, groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(x, gradient, weight.shape[2])
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def _of_weight(x: Tensor, gradient: Tensor, side: int) -> Tensor:
    """Gradient ``[C, 1, side, side]`` from maps ``[N, C, H, W]`` read and gradients made."""
    batch, channels, height, width = x.shape
    pixels = height * width
    read = x.permute(1, 2, 3, 0).reshape(channels, pixels, batch)
    made = gradient.permute(1, 0, 2, 3).reshape(channels, batch, pixels)
    pairs = torch.bmm(read, made).view(channels, pixels**2)
    # A tap more takes up the pairs that none joins.
    taps = pairs.new_zeros(channels, side**2 + 1)
    taps.index_add_(1, _tap_of_pair(height, width, side), pairs)
    return taps[:, :-1].view(channels, 1, side, side)


@cache
def _tap_of_pair(height: int, width: int, side: int) -> Tensor:
    """Which tap joins a pixel that is read to one that is made, ``[(H * W)**2]``."""
    down, right = (
        torch.arange(size)[:, None] - torch.arange(size) + side // 2 for size in (height, width)
    )
    down, right = down[:, None, :, None], right[None, :, None, :]
    joined = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    return torch.where(joined, down * side + right, side**2).flatten()
