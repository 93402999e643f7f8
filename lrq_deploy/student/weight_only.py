"""Linear layers of INT4 weights and float activations."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrq_deploy.graph.specification import LayerSpec

__all__ = ["BLOCK", "WeightOnlyLayer"]

BLOCK = 32
"""Weights of a row that share a scale; TensorRT unpacks such blocks inside of its kernel."""

_QMAX = 7
_CLIPS = 32


class WeightOnlyLayer(nn.Module):
    """A linear layer of 4-bit weights, ``real = scale * q``, trained around or frozen.

    Attributes:
        spec: what it computes.
        stored_weight: int8 ``[C_out, C_in]`` of -7..7.
        scale_per_block: float32 ``[C_out, C_in / BLOCK]``.
        bias: float32 ``[C_out]`` or None.
    """

    stored_weight: Tensor
    scale_per_block: Tensor
    bias: Tensor | None

    def __init__(self, stored_weight: Tensor, scale_per_block: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.spec = LayerSpec("linear")
        self.register_buffer("stored_weight", stored_weight)
        self.register_buffer("scale_per_block", scale_per_block)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Self:
        """Round float weights ``[C_out, C_in]``, each block with the clip that errs least.

        ``C_in`` is a multiple of ``BLOCK``.
        """
        blocks = weight.detach().unflatten(1, (-1, BLOCK))
        widest = blocks.abs().amax(2, keepdim=True).clamp_min(1e-12) / _QMAX
        candidates = [widest * (1 - step / (2 * _CLIPS)) for step in range(_CLIPS)]
        errors = torch.stack([_error(blocks, scale) for scale in candidates])
        chosen = torch.stack(candidates).gather(0, errors.argmin(0, keepdim=True))[0]
        integers = _rounded(blocks, chosen)
        return cls(integers.flatten(1).to(torch.int8), chosen.squeeze(2), bias)

    def real_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Dequantized weight ``[C_out, C_in]``."""
        blocks: Tensor = self.stored_weight.unflatten(1, (-1, BLOCK)).to(dtype)
        return (blocks * self.scale_per_block.to(dtype)[..., None]).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer in the type of ``x``; the exact student works in float64."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.real_weight(x.dtype), bias)


def _rounded(blocks: Tensor, scale: Tensor) -> Tensor:
    return torch.round(blocks / scale).clamp(-_QMAX, _QMAX)


def _error(blocks: Tensor, scale: Tensor) -> Tensor:
    """Squared error of each block, ``[C_out, blocks, 1]``."""
    error: Tensor = _rounded(blocks, scale) * scale - blocks
    return error.square().sum(2, keepdim=True)
