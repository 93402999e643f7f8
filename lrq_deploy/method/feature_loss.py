"""Feature loss: block outputs of the student as near to those of its float twin as it can."""

from typing import Any

import torch
from torch import Tensor

from lrq_deploy.inner_product import inner_product

__all__ = ["feature_errors", "relative_error", "squared_error"]

SMALLEST = 1e-12


def feature_errors(mine: list[Tensor], theirs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """``sum((mine - theirs)^2)`` and ``sum(theirs^2)`` of each block, both ``[blocks]``.

    Args:
        mine: block outputs of the student, each of any shape.
        theirs: those of the float twin, constant, of the same shapes.
    """
    errors = [squared_error(a, b) for a, b in zip(mine, theirs, strict=True)]
    return torch.stack(errors), torch.stack([inner_product(b, b) for b in theirs])


def relative_error(errors: Tensor, sizes: Tensor) -> Tensor:
    """Mean over blocks of the error relative to the size: ``feature_errors`` of a batch as one."""
    return (errors / sizes.clamp_min(SMALLEST)).mean()


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
