"""States of a run that several processes share: the first keeps them, all stop together."""

from collections.abc import Mapping
from typing import Any

from lrq_deploy.method.steps.context import Kept
from lrq_deploy.ranks import Ranks
from lrq_deploy.resume.run_folder import RunFolder
from lrq_deploy.resume.stop_request import StopRequest

__all__ = ["SharedKeeper"]


class SharedKeeper:
    """A ``StageKeeper`` on every rank, over the folder of the first one.

    Args:
        folder: used by the first rank only.
        ranks: of the run.
        stop: of this process; the first rank's is that of ``folder``.
    """

    def __init__(self, folder: RunFolder, ranks: Ranks, stop: StopRequest) -> None:
        self._folder = folder
        self._ranks = ranks
        self._stop = stop

    def kept(self, stage: str) -> Kept:
        """The newest usable state of a stage, as the first rank has it.

        Raises:
            RunStopped: a signal came.
        """
        self._stop.deferred = True
        return self._ranks.on_first(lambda: self._folder.kept(stage))

    def due(self, last: bool) -> bool:
        """Whether the first rank's interval is over, or any rank was asked to stop."""
        mine = self._ranks.first and self._folder.due(last)
        due, number = self._ranks.largest(mine, self._stop.number or 0)
        if number:
            self._stop.number = int(number)
        return bool(due or number)

    def keep(self, stage: str, step: int, state: Mapping[str, Any]) -> None:
        """Write the state of a stage.

        Raises:
            OutputError: the disk refuses.
            RunStopped: a signal asked for it.
        """
        self._ranks.on_first(lambda: self._folder.keep(stage, step, state))

    def release(self, *stages: str) -> None:
        """Delete the states of stages whose product is kept elsewhere.

        Raises:
            RunStopped: a signal came.
        """
        self._ranks.on_first(lambda: self._folder.release(*stages))
        self._stop.deferred = False
        self._stop.obey()
