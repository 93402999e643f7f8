"""Squared error of two maps, with a gradient that lies in memory as they do."""

from typing import Any

import torch
from torch import Tensor

from lrq_deploy.inner_product import inner_product

__all__ = ["squared_error"]


def squared_error(mine: Tensor, theirs: Tensor) -> Tensor:
    """``sum((mine - theirs)^2)`` of tensors of one shape, a float32 scalar; ``theirs`` constant."""
    error: Tensor = _SquaredError.apply(mine, theirs)
    return error


class _SquaredError(torch.autograd.Function):
    """``sum((a - b)^2)``, with a gradient for ``a`` that lies in memory as ``a`` does.

    The gradient of a reduction in plain operators is not channels-last, and every sum and
    quantizer behind it would be computed in mixed order.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        return inner_product(difference, difference)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        # Nobody else holds it, and a new map would cost as much as the product.
        return difference.mul_(2 * gradients[0]), None
