"""Check that rounding has made no NaN of a student, before hours of training find it."""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.errors import UnsupportedNetworkError

__all__ = ["check_finite"]

TRIED = 64
"""Images, which a quotient of two rounded numbers that can be 0 does not survive."""


def check_finite(student: fx.GraphModule, images: Tensor) -> None:
    """Run a calibrated student, whose float network is finite, on some ``images`` ``[N, C, H, W]``.

    Raises:
        UnsupportedNetworkError: logits are NaN or infinite; names the first operator that gives
            such a number.
    """
    with torch.no_grad():
        if bool(student(images[:TRIED]).isfinite().all()):
            return
        search = _Search(student)
        search.run(images[:TRIED])
    raise UnsupportedNetworkError(
        "a network must stay finite when its tensors are rounded to integers",
        f"{search.first} is not, on images where the float network is",
        "keep what it divides by, or takes a root or logarithm of, away from 0 by a clamp right "
        "in front of it, for instance x / y.clamp(min=1e-3)",
    )


class _Search(fx.Interpreter):
    """Runs a student and keeps which operator was the first to give NaN, or else infinity."""

    def __init__(self, student: fx.GraphModule) -> None:
        super().__init__(student)
        self.first = "the result"
        self._found_nan = self._found_any = False

    def run_node(self, n: fx.Node) -> Any:
        """Compute ``n``."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and not self._found_nan:
            nan = bool(result.isnan().any())
            # Masks hold infinities that a softmax takes away again.
            if nan or (not self._found_any and bool(result.isinf().any())):
                self.first = f"the result of {n.name}"
                self._found_nan, self._found_any = nan, True
        return result
