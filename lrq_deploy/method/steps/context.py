"""What every stage of training works with, whatever it trains: one frozen value for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lrq_deploy.progress import ProgressCallback, silent
from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["KEEP_NOTHING", "Kept", "StageContext", "StageKeeper"]


@dataclass(frozen=True)
class Kept:
    """What was kept of a stage.

    Attributes:
        state: as it was given to ``StageKeeper.keep``; None where nothing was kept.
        note: what the user should know of it, empty for nothing.
    """

    state: Mapping[str, Any] | None = None
    note: str = ""


class StageKeeper(Protocol):
    """Keeps the state of stages; ``lrq_deploy.resume`` has the one that writes files."""

    def kept(self, stage: str) -> Kept:
        """The newest usable state of a stage."""

    def due(self, last: bool) -> bool:
        """Whether to keep the state after this step, the last one of its stage or not."""

    def keep(self, stage: str, step: int, state: Mapping[str, Any]) -> None:
        """Keep the state of a stage after a step; may end the run."""


class _KeepNothing:
    def kept(self, stage: str) -> Kept:
        return Kept()

    def due(self, last: bool) -> bool:
        return False

    def keep(self, stage: str, step: int, state: Mapping[str, Any]) -> None:
        return


KEEP_NOTHING: StageKeeper = _KeepNothing()


@dataclass(frozen=True)
class StageContext:
    """Where, with whom and from which seed a stage works, and whom it tells.

    Attributes:
        seed: of every random choice of the stage.
        device: where to train.
        progress: receives the loss terms.
        keeper: keeps the state, for a run that is continued.
        ranks: that share each batch; what a stage is given is the same on all of them.
    """

    seed: int
    device: torch.device
    progress: ProgressCallback = silent
    keeper: StageKeeper = KEEP_NOTHING
    ranks: Ranks = ALONE
