"""The two operators of a frozen student, known to ``torch.export`` and to every exporter.

Both state the one formula of the project: ``real = scale * (q - zero_point)``.
"""

import torch
from torch import Tensor

from lrq_deploy.qparams import per_channel

__all__ = ["dequantize_weight", "quantize_dequantize"]


@torch.library.custom_op("lrq::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """Round ``x`` (any shape) to the integers ``qmin..qmax`` and back.

    ``q = clip(round_half_even(x / scale) + zero_point, qmin, qmax)``
    (ONNX QuantizeLinear, with the narrow range that it cannot express).
    """
    q = torch.clamp(torch.round(x / scale) + zero_point, qmin, qmax)
    return (q - zero_point) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("lrq::dequantize_weight", mutates_args=())
def dequantize_weight(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    """``scale[c] * q`` along ``axis``; ``q`` int8, ``scale`` float32 ``[C]``."""
    return q.to(torch.float32) * per_channel(scale, axis, q.dim())


@dequantize_weight.register_fake
def _(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty(q.shape, dtype=torch.float32, device=q.device)
