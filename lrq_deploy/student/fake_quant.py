"""Fake quantization with learned steps.

``real = scale * (q - zero_point)`` with ``q = clip(round(x / scale) + zero_point, qmin, qmax)``.
Gradients follow Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153, eq. 3 and
5): straight through for ``x`` inside the range, and for the scale the rounding error inside
and the clipped integer outside.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["fake_quantize_per_channel", "fake_quantize_per_tensor", "snap_to_grid"]

INT32_MAX = float(2**31 - 1)


class _FakeQuantize(torch.autograd.Function):
    """Arguments: ``x`` any shape; ``scale`` broadcastable to ``x``; integers as floats."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: float, qmin: float, qmax: float
    ) -> Tensor:
        low, high = qmin - zero_point, qmax - zero_point
        scaled = x / scale
        rounded = scaled.round().clamp_(low, high)
        ctx.save_for_backward(scaled, rounded, scale)
        ctx.low, ctx.high = low, high
        return rounded * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        scaled, rounded, scale = ctx.saved_tensors
        inside = (scaled >= ctx.low) & (scaled <= ctx.high)
        grad_x = grad * inside
        # d(out)/d(scale) = rounded - scaled inside the range, the bound itself outside.
        per_element = torch.addcmul(grad * rounded, grad_x, scaled, value=-1.0)
        return grad_x, per_element.sum_to_size(scale.shape), None, None, None


def fake_quantize_per_tensor(
    x: Tensor, scale: Tensor, zero_point: int, qmin: int, qmax: int
) -> Tensor:
    """Fake-quantize ``x`` (any shape) with one ``scale`` (shape ``[]``)."""
    result: Tensor = _FakeQuantize.apply(x, scale, float(zero_point), float(qmin), float(qmax))
    return result


def fake_quantize_per_channel(x: Tensor, scale: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    """Fake-quantize ``x`` with ``scale`` ``[x.shape[axis]]`` and zero points 0."""
    shape = [1] * x.dim()
    shape[axis] = -1
    result: Tensor = _FakeQuantize.apply(x, scale.reshape(shape), 0.0, float(qmin), float(qmax))
    return result


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
