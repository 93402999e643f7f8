"""Learned rounding: which of its two neighbours on the grid each weight of a layer takes.

AdaRound (Nagel et al. 2020, arXiv 2004.10568, eq. 21 to 24): the integer is ``floor(w / scale) +
h(v)`` with ``h(v) = clip(1.2 * sigmoid(v) - 0.1, 0, 1)``. A penalty drives every ``h`` to 0 or 1.
No weight moves by more than one step, so few images suffice and little can be unlearned.
"""

import torch
from torch import Tensor

__all__ = ["LearnedRounding"]

LOW, HIGH = -0.1, 1.1
START_MARGIN = 0.01
"""First fractions stay this far off 0 and 1, where ``h`` has no gradient."""


class LearnedRounding:
    """The rounding of one weight tensor.

    Attributes:
        floor: ``floor(weight / scale)``, the shape of the weight.
        preference: ``v`` of the formula, the shape of the weight; above 0 it rounds up. A leaf.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        """Start where the sum is ``weight``; ``scale`` is broadcastable to it."""
        steps = weight.detach() / scale.detach()
        self.floor = steps.floor()
        fraction = (steps - self.floor).clamp(START_MARGIN, 1 - START_MARGIN)
        part = (fraction - LOW) / (HIGH - LOW)
        self.preference = torch.log(part / (1 - part)).requires_grad_()

    def fraction(self) -> Tensor:
        """``h``: what is added to the floor, 0..1."""
        return (self.preference.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)

    def integers(self) -> Tensor:
        """Between the integers while it is learned; differentiable."""
        return self.floor + self.fraction()

    def settled(self) -> Tensor:
        """The integers that were chosen."""
        return self.floor + (self.preference.detach() > 0)

    def indecision(self, sharpness: float) -> Tensor:
        """Mean of ``1 - |2h - 1| ** sharpness``: 0 where every weight has chosen."""
        return (1 - (2 * self.fraction() - 1).abs().pow(sharpness)).mean()

    def state_dict(self) -> dict[str, Tensor]:
        """Both tensors."""
        return {"floor": self.floor, "preference": self.preference.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict``."""
        self.floor.copy_(state["floor"])
        with torch.no_grad():
            self.preference.copy_(state["preference"])
