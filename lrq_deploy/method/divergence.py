"""Watch the loss terms of a stage; stop at the first that is not finite."""

import copy
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from lrq_deploy.errors import DivergenceError

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

        Raises:
            DivergenceError: a term is NaN or infinite; the module holds the last good state, and the
                error carries it.
        """
        if all(math.isfinite(value) for value in terms.values()):
            self._good = self._snapshot()
            return
        self._module.load_state_dict(self._good)
        listed = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        raise DivergenceError(
            f"all loss terms of the {self._stage} stage must be finite",
            f"{listed} at step {step}",
            "the last good state was kept; try --recipe fast, another --seed, or more bits",
            self._good,
        )

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(self._module.state_dict())
