"""Fake quantization with learned steps.

``real = scale * (q - zero_point)`` with ``q = clip(round(x / scale) + zero_point, qmin, qmax)``.
Gradients follow Learned Step Size Quantization (Esser et al. 2020, arXiv 1902.08153, eq. 3 and
5), whose range ends at the outermost integers where this one ends half a step further, as those
values are rounded, not clipped: straight through for ``x`` inside the range, and for the scale the
rounding error inside and the clipped integer outside. With ``g`` the gradient of the result ``y``
and ``m`` the mask of the range that sum is ``sum(g * y) / scale - sum(g * m * x / scale)``: two dot
products, no further tensor. Training multiplies by ``1 / scale``, which moves single values that
lie on a tie; without gradients the division is done as stated, so that an evaluated student has the
bits of the frozen one.
"""

from typing import Any

import torch
from torch import Tensor

from lrq_deploy.inner_product import inner_product
from lrq_deploy.qparams import per_channel

__all__ = ["fake_quantize_per_channel", "fake_quantize_per_tensor"]


def fake_quantize_per_tensor(
    x: Tensor, scale: Tensor, zero_point: int, qmin: int, qmax: int
) -> Tensor:
    """Fake-quantize ``x`` (any shape) with one ``scale`` (shape ``[]``)."""
    bounds = (qmin - zero_point, qmax - zero_point)
    if not torch.is_grad_enabled():
        return (x / scale).round_().clamp_(*bounds).mul_(scale)
    quantized: Tensor = _LearnedStep.apply(x, scale, *bounds)
    return quantized


def fake_quantize_per_channel(x: Tensor, scale: Tensor, axis: int, qmin: int, qmax: int) -> Tensor:
    """Fake-quantize ``x`` with ``scale`` ``[x.shape[axis]]`` and zero points 0."""
    scale = per_channel(scale, axis, x.dim())
    if not torch.is_grad_enabled():
        return (x / scale).round_().clamp_(qmin, qmax).mul_(scale)
    quantized: Tensor = _LearnedStep.apply(x, scale, qmin, qmax)
    return quantized


class _LearnedStep(torch.autograd.Function):
    """``scale`` has shape ``[]``, or that of ``x`` with every axis but one of size 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        steps = x * scale.reciprocal()
        if torch.compiler.is_compiling():
            # torch 2.11 compiles a Function that writes in place to gradients of 0.
            quantized = steps.round().clamp(lowest, highest).mul(scale)
        else:
            quantized = steps.round().clamp_(lowest, highest).mul_(scale)
        ctx.save_for_backward(steps, quantized, scale)
        ctx.bounds = (lowest, highest)
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        steps, quantized, scale = ctx.saved_tensors
        lowest, highest = ctx.bounds
        if gradient.stride() != steps.stride():
            # A pooling starts gradients that are not channels-last, and sums would hand them on.
            gradient = torch.empty_like(steps).copy_(gradient)
        # One kernel for mask and product; its bounds are numbers, so a GPU is not waited for.
        inside = torch.ops.aten.hardtanh_backward(gradient, steps, lowest - 0.5, highest + 0.5)
        if not ctx.needs_input_grad[1]:
            return inside, None, None, None
        of_scale = _sum(gradient, quantized, scale) / scale - _sum(inside, steps, scale)
        return inside, of_scale, None, None


def _sum(a: Tensor, b: Tensor, like: Tensor) -> Tensor:
    """Sum of ``a * b`` over what ``like`` does not span, in the shape of ``like``."""
    if like.dim():
        return (a * b).sum_to_size(like.shape)
    return inner_product(a, b)
