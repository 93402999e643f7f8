"""Watch the loss terms and weights of a stage; stop at the first that are not finite."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrq_deploy.errors import DivergenceError
from lrq_deploy.wording import counted

__all__ = ["DivergenceGuard"]


class DivergenceGuard:
    """Keeps the last state in which all loss terms were finite.

    Args:
        stage: name for the message.
        module: whose state is kept on the side.
    """

    def __init__(self, stage: str, module: nn.Module) -> None:
        self._stage = stage
        self._module = module
        self._good = self._snapshot()

    def check(self, step: int, terms: Mapping[str, float]) -> None:
        """Keep the state, or restore the last good one and stop.

        The state is looked at too: a quantizer clips an infinite weight, and the loss stays
        finite.

        Raises:
            DivergenceError: a term or a tensor holds NaN or infinity; the module holds the last
                good state, and the error carries it.
        """
        bad = _not_finite(self._module.state_dict())
        if not bad and all(math.isfinite(value) for value in terms.values()):
            self._good = self._snapshot()
            return
        self._module.load_state_dict(self._good)
        listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        count = counted(len(bad), "tensor")
        spread = f", with NaN or Inf in {count} such as {bad[0]}" if bad else ""
        raise DivergenceError(
            f"all loss terms and weights of the {self._stage} stage must be finite",
            f"{listed} at step {step}{spread}",
            "try another --seed, or, where the run has them not yet, --recipe fast or more bits (8 "
            "at most); the last good state was kept",
            # Other ranks get it too, and may not have this device.
            {name: value.cpu() for name, value in self._good.items()},
        )

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self._module.state_dict())


def _not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with NaN or infinity; a GPU is waited for once, not once per tensor."""
    names = [name for name, value in state.items() if value.is_floating_point()]
    if not names:
        return []
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    return [name for name, fine in zip(names, finite, strict=True) if not fine]
