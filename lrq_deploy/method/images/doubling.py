"""A 3x3 convolution of a map that was doubled, without doubling it.

Doubling repeats each value, so of the nine taps over a repeated map those that meet the same value
add up: each of the four pixels that a value becomes is a 2x2 convolution of the small map. That is
``4 * 4`` products where the large map takes ``4 * 9``, and the same sums but for their order.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["convolve_doubled"]

_MERGED_TAPS = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""``[2, 2, 3]``: which taps of a row meet which of two neighbours, for the first and second pixel
that a value becomes."""


def convolve_doubled(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution with padding 1 of ``x`` with each value repeated over 2x2 pixels.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[O, C, 3, 3]``.

    Returns:
        ``[N, O, 2H, 2W]``, channels-last.
    """
    outputs, inputs = weight.shape[:2]
    with torch.autocast(x.device.type, enabled=False):
        merged = torch.einsum("ptk,qsl,oikl->pqoits", _MERGED_TAPS, _MERGED_TAPS, weight.float())
        merged = merged.reshape(4 * outputs, inputs, 2, 2)
        merged = merged.contiguous(memory_format=torch.channels_last)
    woven: Tensor = _Woven.apply(F.conv2d(x, merged, padding=1))
    return woven


class _Woven(torch.autograd.Function):
    """Four maps ``[N, 4 * O, H + 1, W + 1]``, one pixel of four each, to ``[N, O, 2H, 2W]``.

    Those of first pixels begin with the border that the padding added, those of second ones end
    with it. Written as copies: autograd's slices would fill each map with zeros four times.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        rows = maps.permute(0, 2, 3, 1)
        woven = maps.new_empty(_woven_size(maps.shape))
        for (down, right), here in _places(woven.shape):
            woven[:, :, down, :, right] = rows[here]
        return woven.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        batch, channels, height, width = ctx.shape
        woven = gradients[0].permute(0, 2, 3, 1).reshape(_woven_size(ctx.shape))
        rows = woven.new_zeros(batch, height, width, channels)
        for (down, right), here in _places(woven.shape):
            rows[here] = woven[:, :, down, :, right]
        return rows.permute(0, 3, 1, 2)


def _woven_size(maps: torch.Size) -> tuple[int, ...]:
    """``[N, H, 2, W, 2, O]`` of maps ``[N, 4 * O, H + 1, W + 1]``."""
    batch, channels, height, width = maps
    return batch, height - 1, 2, width - 1, 2, channels // 4


def _places(size: torch.Size) -> list[tuple[tuple[int, int], tuple[slice, ...]]]:
    """Each of the four pixels, and where its map lies in ``[N, H + 1, W + 1, 4 * O]``."""
    _, height, _, width, _, outputs = size
    return [
        (
            (down, right),
            (
                slice(None),
                slice(down, down + height),
                slice(right, right + width),
                slice((2 * down + right) * outputs, (2 * down + right + 1) * outputs),
            ),
        )
        for down in range(2)
        for right in range(2)
    ]
