"""The one loop of all training stages: steps, divergence checks, progress, checkpoints."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from lrq_deploy.errors import StateFileError
from lrq_deploy.method.steps.back_off import BackOff, RepeatableStage
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.divergence import DivergenceGuard
from lrq_deploy.method.steps.heap import kept_heap
from lrq_deploy.method.steps.tensor_cores import tf32
from lrq_deploy.progress import StageProgress

__all__ = ["ResumableStage", "run_stage"]

CHECK_EVERY = 25
"""Steps between two looks at the loss terms; on a GPU each look waits for the step to finish."""


class ResumableStage(RepeatableStage, Protocol):
    """Work in steps. Its state is complete: loaded into a new one, the rest gives the same bits.

    Its name stands in progress, errors and checkpoints.
    """

    @property
    def steps(self) -> int:
        """Steps of the whole stage."""

    @property
    def images_per_step(self) -> float:
        """Images that a step handles, for the throughput."""

    @property
    def watched(self) -> nn.Module:
        """What a divergence would spoil; its last good state is kept."""

    def terms(self) -> dict[str, float]:
        """Loss terms of the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on: tensors and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            StateFileError: what the state refers to is gone; nothing was changed.
        """


def run_stage(stage: ResumableStage, context: StageContext) -> dict[str, float]:
    """Do the steps of ``stage`` that are left, from its kept state where there is one.

    Returns:
        Loss terms of the last step, their mean over the ranks; and in how many pieces the
        batches were taken, where memory was short (see ``BackOff``).

    Raises:
        DivergenceError: a loss or a tensor of ``stage.watched`` is not finite.
        DeviceMemoryError: the smallest piece of a batch does not fit.
    """
    terms: dict[str, float] = {}
    keeper, ranks = context.keeper, context.ranks
    kept = keeper.kept(stage.name)
    note = kept.note
    if kept.state is not None:
        try:
            stage.load_state_dict(kept.state["stage"])
            stage.pieces.count = kept.state["pieces"]
            terms = dict(kept.state["terms"])
        except StateFileError as error:
            note = f"{error.received}; starts anew"
    guard = DivergenceGuard(stage.name, stage.watched)
    report = StageProgress(
        context.progress, stage.name, stage.steps, stage.images_per_step, stage.steps_done
    )
    if note:
        report.say(note)
    back_off = BackOff(stage, report.say, ranks)
    with tf32(stage.device), kept_heap():
        while stage.steps_done < stage.steps:
            back_off.step()
            done = stage.steps_done
            last = done == stage.steps
            checked = last or done % CHECK_EVERY == 0
            if checked:
                terms = ranks.mean(stage.terms())
                guard.check(done, terms)
            report.advance(terms)
            if keeper.due(last):
                if not checked:
                    # A state that has diverged is of no use.
                    terms = ranks.mean(stage.terms())
                    guard.check(done, terms)
                keeper.keep(stage.name, done, _state(stage, terms))
    return terms | stage.pieces.figures(stage.name)


def _state(stage: ResumableStage, terms: Mapping[str, float]) -> dict[str, Any]:
    return {"stage": stage.state_dict(), "terms": terms, "pieces": stage.pieces.count}
