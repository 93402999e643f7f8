"""How this process was started: alone, or as one of several that share a run."""

import os
from dataclasses import dataclass

from lrq_deploy.errors import OptionError

__all__ = ["Launch", "launch", "refuse_several", "speaker", "told_beside"]

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
_NAMES = (*_NUMBERS, "MASTER_ADDR")


@dataclass(frozen=True)
class Launch:
    """The place of a process in its job, from 0.

    Attributes:
        rank: of this process.
        count: processes of the job.
        local_rank: of this process on its machine.
        local_count: processes of the job on this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


def speaker() -> str:
    """This process in messages, ``rank 1``; empty for the first one, and for one alone."""
    rank = os.environ.get("RANK", "0")
    return "" if os.environ.get("WORLD_SIZE", "1") == "1" or rank == "0" else f"rank {rank}"


def told_beside() -> bool:
    """Whether another process of this machine tells the errors that its files and options cause."""
    return bool(speaker()) and os.environ.get("LOCAL_RANK", "0") != "0"


def launch() -> Launch:
    """What ``torchrun`` or ``accelerate launch`` says in the environment; alone without them.

    Raises:
        OptionError: the variables are not those of a launcher.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return Launch()
    values = {name: os.environ.get(name, "") for name in _NAMES}
    refusal = OptionError(
        f"WORLD_SIZE={count} says that several processes share the run, so a launcher must set "
        f"{', '.join(_NAMES)}, and each RANK below its count",
        ", ".join(f"{name}={value or 'unset'}" for name, value in values.items()),
        "start with torchrun --nproc-per-node N -m lrq_deploy quantize, or unset WORLD_SIZE",
    )
    if not values["MASTER_ADDR"] or not all(values[name].isdecimal() for name in _NUMBERS):
        raise refusal
    rank, processes, local_rank, local_count, _ = (int(values[name]) for name in _NUMBERS)
    if rank >= processes or local_rank >= local_count:
        raise refusal
    return Launch(rank, processes, local_rank, local_count)


def refuse_several(command: str) -> None:
    """Refuse to do the same work once per process.

    Args:
        command: of the command line, which does not share its work.

    Raises:
        OptionError: a launcher started this process as one of several.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    # Some clusters set WORLD_SIZE for all that runs there; only launchers set LOCAL_RANK.
    if count != "1" and "LOCAL_RANK" in os.environ:
        raise OptionError(
            f"{command} runs in one process; quantize and demo share their work among several",
            f"a launcher with WORLD_SIZE={count}",
            f"run lrq-deploy {command} without the launcher",
        )
