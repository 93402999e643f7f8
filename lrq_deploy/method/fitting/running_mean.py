"""The mean of the parameters of a module over steps (Izmailov et al., arXiv 1803.05407)."""

import torch
from torch import nn

__all__ = ["RunningMean"]


class RunningMean:
    """As ``torch.optim.swa_utils.AveragedModel`` has it, which waits for the GPU at each step.

    Args:
        module: whose parameters are averaged, each once; buffers are not.

    Attributes:
        values: the mean, a tensor per parameter.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [parameter.detach() for parameter in module.parameters()]
        self.values = [parameter.clone() for parameter in self._parameters]

    def add(self, number: int) -> None:
        """Take in the parameters as they are, as the ``number``-th of the mean, from 1."""
        if number == 1:
            torch._foreach_copy_(self.values, self._parameters)
            return
        changes = torch._foreach_sub(self._parameters, self.values)
        torch._foreach_div_(changes, number)
        torch._foreach_add_(self.values, changes)

    def give(self) -> None:
        """Set the parameters to the mean."""
        torch._foreach_copy_(self._parameters, self.values)
