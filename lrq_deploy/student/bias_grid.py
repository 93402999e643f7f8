"""Biases on the grid of an int32 accumulator: multiples of ``scale_x * scale_w[c]``."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["snap_to_grid"]

INT32_MAX = float(2**31 - 1)


class _Snap(torch.autograd.Function):
    """In float64, so that an int32 is exact and a frozen bias has the same bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor) -> Tensor:
        wide = step.double()
        steps = torch.round(x.double() / wide).clamp_(-INT32_MAX, INT32_MAX)
        return (steps * wide).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def snap_to_grid(x: Tensor, step: Tensor) -> Tensor:
    """``x`` rounded to the nearest int32 multiple of ``step``; the gradient passes unchanged.

    Args:
        x: any shape.
        step: above 0, broadcastable to ``x``; constant.
    """
    result: Tensor = _Snap.apply(x, step)
    return result
