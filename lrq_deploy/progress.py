"""Progress as a stream of events; the command line renders them, a notebook may ignore them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["ProgressCallback", "ProgressEvent", "StageProgress", "silent"]


@dataclass(frozen=True)
class ProgressEvent:
    """One report from a running stage.

    Attributes:
        stage: name of the stage, for instance ``"generator"``.
        step: steps finished so far, 0 at the start of the stage.
        total: steps of the whole stage, at least 1.
        metrics: loss terms or figures of this step.
        images_per_second: throughput since the stage began; 0 where it has no meaning.
        seconds_left: estimated rest of the stage; ``None`` before the first step.
        message: a sentence for the log, empty for plain progress.
    """

    stage: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    seconds_left: float | None = None
    message: str = ""


ProgressCallback = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Discard every event."""


class StageProgress:
    """Counts the steps of one stage and turns them into events.

    Args:
        callback: receives the events.
        stage: name of the stage.
        total: number of steps, at least 1.
        images_per_step: images handled by one step, for the throughput.
        done: steps that were finished before, by a run that this one continues.
    """

    def __init__(
        self,
        callback: ProgressCallback,
        stage: str,
        total: int,
        images_per_step: float = 0,
        done: int = 0,
    ) -> None:
        self._callback = callback
        self._stage = stage
        self._total = max(total, 1)
        self._images_per_step = images_per_step
        self._step = self._first = done
        self._start = time.perf_counter()
        callback(ProgressEvent(stage, done, self._total))

    def say(self, message: str) -> None:
        """Report a sentence between two steps."""
        self._callback(ProgressEvent(self._stage, self._step, self._total, message=message))

    def advance(self, metrics: Mapping[str, float] | None = None, message: str = "") -> None:
        """Report one finished step with its loss terms."""
        self._step += 1
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        here = self._step - self._first
        self._callback(
            ProgressEvent(
                stage=self._stage,
                step=self._step,
                total=self._total,
                metrics=dict(metrics or {}),
                images_per_second=here * self._images_per_step / elapsed,
                seconds_left=elapsed / here * (self._total - self._step),
                message=message,
            )
        )
