"""Fit the student to the teacher on synthetic images.

The student is the float network with its quantizers on; its float twin (quantizers off) is the
teacher, so both share every tensor name. The loss is distillation of the logits plus the
relative squared error of the block outputs; no label takes part (except in margin mode ``b``).
The result is the mean of the weights and scales over the last steps (arXiv 1803.05407): single
steps scatter around it, for a weight beside a rounding tie is on either side by chance.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lrq_deploy.graph.features import head_layer, with_features
from lrq_deploy.graph.statistics import Classifier
from lrq_deploy.method.augmented_batches import AugmentedBatches
from lrq_deploy.method.back_off import Moving
from lrq_deploy.method.distillation import (
    decoupled_distillation,
    label_distillation,
    plain_distillation,
)
from lrq_deploy.method.feature_loss import feature_errors, relative_error
from lrq_deploy.method.loop import KEEP_NOTHING, StageKeeper, run_stage
from lrq_deploy.method.margin import add_margin
from lrq_deploy.method.pieces import Pieces
from lrq_deploy.method.precision import COARSE_BITS, coarsest_bits, reduced_precision
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.running_mean import RunningMean
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import ProgressCallback
from lrq_deploy.ranks import ALONE, Ranks
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer
from lrq_deploy.task import Task

__all__ = ["StudentTraining", "train_student"]

WARM_UP_STEPS = 20


@dataclass(frozen=True)
class _Twins:
    """Student and float twin, both ``images -> (logits, [features], head_input)``.

    ``coarse`` says whether the student's grid is much coarser than bfloat16.
    """

    student: fx.GraphModule
    teacher: fx.GraphModule
    head: QuantizedLayer | None
    coarse: bool


def train_student(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    images: Tensor,
    settings: RecipeSettings,
    switches: MethodSwitches,
    seed: int,
    device: torch.device,
    progress: ProgressCallback,
    task: Task = "multiclass",
    keeper: StageKeeper = KEEP_NOTHING,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Train ``student`` in place; it must be calibrated.

    Args:
        student: placed and calibrated; moved to ``device``.
        teacher: its ``float_twin``; moved to ``device``.
        images: normalised synthetic images ``[N, C, H, W]`` on the CPU.
        settings: steps, rates and loss weights.
        switches: decoupled or plain distillation; margin mode ``b``.
        seed: of the order and augmentation of the images.
        device: where to train.
        progress: receives the loss terms.
        task: what the logits mean.
        keeper: keeps the state, for a run that is continued.
        ranks: that share each batch; ``student`` and ``images`` are the same on all of them.

    Returns:
        Loss terms of the last check.

    Raises:
        DivergenceError: a loss is not finite; ``student`` then holds the last good state.
    """
    stage = StudentTraining(student, teacher, images, settings, switches, seed, device, task, ranks)
    return run_stage(stage, progress, keeper, ranks)


class StudentTraining:
    """The training of ``train_student``, step by step; see ``ResumableStage``."""

    name = "student"

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        images: Tensor,
        settings: RecipeSettings,
        switches: MethodSwitches,
        seed: int,
        device: torch.device,
        task: Task,
        ranks: Ranks = ALONE,
    ) -> None:
        self.watched = student.to(device).to(memory_format=torch.channels_last)
        self.steps = settings.student_steps
        self.steps_done = 0
        self.images_per_step = settings.batch_size
        teacher = teacher.to(device).to(memory_format=torch.channels_last)
        self._twins = _Twins(
            with_features(student),
            with_features(teacher),
            head_layer(student),
            coarsest_bits(student) <= COARSE_BITS,
        )
        self._batches = AugmentedBatches(images, settings.batch_size, seed, ranks)
        self._ranks = ranks
        self._settings = settings
        self._switches = switches
        self.device = device
        self.pieces = Pieces(settings.batch_size // ranks.count)
        self._task: Task = task
        self._optimizer = _optimizer(student, settings)
        self._base_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._mean = RunningMean(student)
        self._drawn: list[Tensor] = []
        self._losses: _Losses | None = None

    def prepare(self) -> None:
        """Draw a batch of the pool."""
        self._drawn = self._drawn or [self._batches.draw()]

    def moving(self) -> Moving:
        """The student, its mean and the optimiser."""
        weights = self.watched.state_dict().values()
        return Moving([*weights, *self._mean.values], [self._optimizer])

    def step(self) -> None:
        """One batch of the pool."""
        self.prepare()
        settings = self._settings
        rate = _schedule(self.steps_done, self.steps)
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * rate
        (batch,) = self._drawn
        batch = batch.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self.pieces.backward((batch,), self._seen, self._loss)
        self._ranks.average_gradients(self._optimizer)
        self._optimizer.step()
        done = self.steps_done + 1
        averaged_from = self.steps * (1 - settings.averaged_share)
        if done > averaged_from:
            self._mean.add(done - math.floor(averaged_from))
            if done == self.steps:
                self._mean.give()
        self._losses, self._drawn = losses, []
        self.steps_done = done

    def _seen(self, batch: Tensor) -> tuple[Tensor, ...]:
        return _losses(self._twins, batch, self._settings, self._switches, self._task)

    def _loss(self, *seen: Tensor) -> tuple[Tensor, "_Losses"]:
        distillation, errors, sizes, margin = (rows.mean(0) for rows in seen)
        losses = _Losses(distillation, relative_error(errors, sizes), margin)
        weighted = self._settings.feature_weight * losses.features
        return losses.distillation + weighted + losses.margin, losses

    def terms(self) -> dict[str, float]:
        """Loss terms of the last step."""
        if self._losses is None:
            return {}
        return {name: float(value.detach()) for name, value in vars(self._losses).items()}

    def state_dict(self) -> dict[str, Any]:
        """State of the student, its optimiser and the order of the images."""
        return {
            "steps_done": self.steps_done,
            "student": self.watched.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "batches": self._batches.state_dict(),
            "mean": self._mean.values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.steps_done = state["steps_done"]
        self.watched.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._batches.load_state_dict(state["batches"])
        for mean, kept in zip(self._mean.values, state["mean"], strict=True):
            mean.copy_(kept)


@dataclass(frozen=True)
class _Losses:
    distillation: Tensor
    features: Tensor
    margin: Tensor


def _losses(
    twins: _Twins, batch: Tensor, settings: RecipeSettings, switches: MethodSwitches, task: Task
) -> tuple[Tensor, ...]:
    """Distillation, ``feature_errors`` and margin of a batch or an even piece of one.

    All are ``[1, ...]``: rows to which those of further pieces can be appended.
    """
    with reduced_precision(batch.device, settings.reduced_precision and twins.coarse):
        with torch.no_grad():
            teacher_logits, teacher_features, _ = twins.teacher(batch)
        logits, features, head_input = twins.student(batch)
    logits, teacher_logits = logits.float(), teacher_logits.float()
    if task == "multilabel":
        distillation = label_distillation(logits, teacher_logits, settings.temperature)
    elif switches.decoupled:
        distillation = decoupled_distillation(
            logits, teacher_logits, settings.temperature, 1.0, settings.other_weight
        )
    else:
        distillation = plain_distillation(logits, teacher_logits, settings.temperature)
    errors, sizes = feature_errors(features, teacher_features)
    margin = logits.new_zeros(())
    if switches.margin == "b" and twins.head is not None:
        labels = teacher_logits.argmax(1)
        centres = Classifier(twins.head.quantized_weight(), None)
        moved = add_margin(logits, head_input.float(), labels, centres, settings.margin)
        margin = settings.class_weight * F.cross_entropy(moved, labels)
    return distillation[None], errors[None], sizes[None], margin[None]


def _optimizer(student: nn.Module, settings: RecipeSettings) -> torch.optim.Adam:
    """Adam with rates relative to the size of what they move.

    A fixed rate would cross many integer steps in a layer of small weights and none in one of
    large weights.
    """
    groups: list[dict[str, object]] = []
    scales: list[nn.Parameter] = []
    weight_rate, bias_rate = (settings.weight_rate * factor for factor in _rate_factors(student))
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            scales.append(module.log_scale)
            for tensor, rate in ((module.weight, weight_rate), (module.bias, bias_rate)):
                if tensor is not None:
                    size = float(tensor.detach().square().mean().sqrt().clamp_min(1e-3))
                    groups.append({"params": [tensor], "lr": rate * size})
        elif isinstance(module, ActQuantizer):
            module.log_scale.requires_grad_(module.learns)
            if module.learns:
                scales.append(module.log_scale)
    groups.append({"params": scales, "lr": settings.scale_rate})
    return torch.optim.Adam(groups, fused=True)


def _rate_factors(student: nn.Module) -> tuple[float, float]:
    """What the rates of weights and of biases are multiplied by; both 1 at 4 bits.

    Weights need to move by about one integer step of the coarsest layer to round otherwise: at 8
    bits a rate that suits 4 crosses many and only adds noise, at 2 bits it crosses none (measured,
    docs/decisions.md). Finer layers beside coarse ones make up for their errors.
    """
    coarseness = COARSE_BITS - coarsest_bits(student)
    fine = min(1.0, 2.0**coarseness)
    return fine if coarseness <= 0 else 4.0**coarseness, fine


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to 0."""
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(steps // 5, 1)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
