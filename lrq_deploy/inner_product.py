"""The sum of the products of two maps, in the order of memory and in float32."""

import torch
from torch import Tensor

__all__ = ["inner_product"]

PARTS = 64
"""A product of bfloat16 is rounded to bfloat16 at its end; so many parts are added in float32."""


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """``sum(a * b)`` of two tensors of one shape and type, a float32 scalar."""
    if a.dim() == 4:
        # Views in the order of memory: a copy would cost more than the product.
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    a, b = a.reshape(-1), b.reshape(-1)
    if a.dtype == torch.float32:
        return torch.dot(a, b)
    if a.numel() % PARTS:
        return torch.dot(a.float(), b.float())
    parts = torch.bmm(a.view(PARTS, 1, -1), b.view(PARTS, -1, 1))
    return parts.sum(dtype=torch.float32)
