"""How a run is carried out; nothing here changes what it makes."""

from dataclasses import dataclass, field
from pathlib import Path

from lrq_deploy.errors import OptionError
from lrq_deploy.resume.stop_request import StopRequest

__all__ = ["RunControl"]


@dataclass(frozen=True)
class RunControl:
    """What a run keeps and reuses.

    Attributes:
        cache: folder of finished stages, shared by runs; None keeps none.
        resume: continue the run that was stopped, where there is one.
        checkpoint_every: seconds between two states of a running stage, above 0.
        max_memory_mb: MiB that the process may take before images stay on the disk; None for all.
        stop: asks the run to stop; None where nothing will.
    """

    cache: Path | None = None
    resume: bool = False
    checkpoint_every: float = 60.0
    max_memory_mb: int | None = None
    stop: StopRequest | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.checkpoint_every > 0:
            raise OptionError(
                "checkpoint_every must be above 0 seconds",
                f"{self.checkpoint_every:g}",
                "pass --checkpoint-every 60",
            )
        if self.max_memory_mb is not None and self.max_memory_mb < 1:
            raise OptionError(
                "max_memory must be 1 MiB or more",
                str(self.max_memory_mb),
                "pass for instance --max-memory 2000",
            )
