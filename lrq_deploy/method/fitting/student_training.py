"""Fit the student to the teacher on synthetic images.

The student is the float network with its quantizers on; its float twin (quantizers off) is the
teacher. The loss is distillation of the logits plus the relative squared error of what enters the
last layer; no label takes part (in margin mode ``b`` the teacher's answers are the labels).
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

from lrq_deploy.graph.finite_gradients import finite_gradients
from lrq_deploy.graph.on_device import on_device
from lrq_deploy.graph.statistics import Classifier
from lrq_deploy.method.fitting.augmented_batches import AugmentedBatches, DrawnBatch
from lrq_deploy.method.fitting.distillation import (
    decoupled_distillation,
    label_distillation,
    plain_distillation,
)
from lrq_deploy.method.fitting.running_mean import RunningMean
from lrq_deploy.method.fitting.squared_error import squared_error
from lrq_deploy.method.fitting.teacher_answers import TeacherAnswers
from lrq_deploy.method.fitting.typical_size import bias_size, weight_size
from lrq_deploy.method.images.margin import add_margin
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import Moving
from lrq_deploy.method.steps.compilation import compiled
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.method.steps.precision import COARSE_BITS, coarsest_bits, reduced_precision
from lrq_deploy.options import MethodSwitches
from lrq_deploy.student.head_input import head_layer, with_head_input
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer
from lrq_deploy.task import Task

__all__ = ["StudentTraining"]

WARM_UP_STEPS = 20
SMALLEST = 1e-12


class StudentTraining:
    """Trains ``student`` in place, which must be calibrated, for ``run_stage``.

    Args:
        student: placed and calibrated; moved to the device.
        teacher: its ``float_twin``; moved to the device.
        images: normalised synthetic images ``[N, C, H, W]`` on the CPU.
        settings: steps, rates and loss weights.
        switches: decoupled or plain distillation; margin mode ``b``.
        task: what the logits mean.
        context: where, with whom and from which seed to train.
        overlays: that the images are blended with, see ``AugmentedBatches``.
    """

    name = "student"

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: fx.GraphModule,
        images: Tensor,
        settings: RecipeSettings,
        switches: MethodSwitches,
        task: Task,
        context: StageContext,
        overlays: Tensor | None = None,
    ) -> None:
        device, ranks = context.device, context.ranks
        self.watched = on_device(student, device).to(memory_format=torch.channels_last)
        self.steps = settings.student_steps
        self.steps_done = 0
        self.images_per_step = settings.batch_size
        teacher = on_device(teacher, device).to(memory_format=torch.channels_last)
        self._teacher = with_head_input(teacher)
        self._student = finite_gradients(with_head_input(student))
        self._compiled = compiled(self._student, device) if settings.compiled else self._student
        self._head = head_layer(student)
        # Where the grid of the student is much coarser than that of bfloat16.
        self._reduced = settings.reduced_precision and coarsest_bits(student) <= COARSE_BITS
        self._batches = AugmentedBatches(images, settings.batch_size, context.seed, ranks, overlays)
        self._answers = TeacherAnswers(self._asked, self._batches.views, ranks)
        self._ranks = ranks
        self._settings = settings
        self._switches = switches
        self.device = device
        self.pieces = Pieces(settings.batch_size // ranks.count)
        self._task: Task = task
        self._optimizer = _optimizer(student, settings)
        self._base_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._mean = RunningMean(student)
        self._drawn: list[DrawnBatch] = []
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
        (drawn,) = self._drawn
        batch = drawn.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        wanted = self._answers.of(drawn, batch)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self.pieces.backward((batch, wanted), self._seen, self._loss)
        self._ranks.average_gradients(self._optimizer)
        self._optimizer.step()
        done = self.steps_done + 1
        averaged_from = self.steps * (1 - settings.averaged_share)
        if done > averaged_from:
            self._mean.add(done - math.floor(averaged_from))
            if done == self.steps:
                self._mean.give()
        self._losses = losses

    def commit(self) -> None:
        """Count the step."""
        self._drawn = []
        self.steps_done += 1

    @torch.no_grad()
    def _asked(self, batch: Tensor) -> Tensor:
        """Logits ``[n, K]`` and head inputs ``[n, F]`` of the teacher, side by side."""
        with reduced_precision(self.device, self._reduced):
            return self.pieces.mapped(lambda x: _side_by_side(*self._teacher(x)), batch)

    def _seen(self, batch: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        """What the loss needs of a batch or an even piece of one, one row ``[1, ...]`` each."""
        # Pieces add up their gradients, which a compiled student may overwrite.
        student = self._compiled if self.pieces.count == 1 else self._student
        with reduced_precision(self.device, self._reduced):
            logits, head_input = student(batch)
        logits = logits.float()
        wanted, wanted_input = wanted.split([logits.shape[1], wanted.shape[1] - logits.shape[1]], 1)
        errors = sizes = margin = logits.new_zeros(())
        if head_input is not None:
            errors = squared_error(head_input.float(), wanted_input)
            sizes = wanted_input.square().sum()
        if self._switches.margin == "b" and self._head is not None:
            margin = _margin(logits, wanted, head_input.float(), self._head, self._settings)
        distilled = _distillation(logits, wanted, self._settings, self._switches, self._task)
        return distilled[None], errors[None], sizes[None], margin[None]

    def _loss(self, *seen: Tensor) -> tuple[Tensor, "_Losses"]:
        distillation, errors, sizes, margin = (rows.mean(0) for rows in seen)
        # Of all ranks, so that the mean of their losses is the ratio of the whole batch.
        sizes = self._ranks.pooled(sizes).clamp_min(SMALLEST)
        losses = _Losses(distillation, errors / sizes, margin)
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
            "answers": self._answers.known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.steps_done = state["steps_done"]
        self.watched.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._batches.load_state_dict(state["batches"])
        answers = state["answers"]
        self._answers.known = None if answers is None else answers.to(self.device)
        for mean, kept in zip(self._mean.values, state["mean"], strict=True):
            mean.copy_(kept)


@dataclass(frozen=True)
class _Losses:
    distillation: Tensor
    features: Tensor
    margin: Tensor


def _side_by_side(logits: Tensor, head_input: Tensor | None) -> Tensor:
    if head_input is None:
        return logits.float()
    return torch.cat([logits.float(), head_input.float()], 1)


def _distillation(
    logits: Tensor, wanted: Tensor, settings: RecipeSettings, switches: MethodSwitches, task: Task
) -> Tensor:
    if task == "multilabel":
        return label_distillation(logits, wanted, settings.temperature)
    if switches.decoupled:
        return decoupled_distillation(logits, wanted, settings.temperature, settings.other_weight)
    return plain_distillation(logits, wanted, settings.temperature)


def _margin(
    logits: Tensor,
    wanted: Tensor,
    head_input: Tensor,
    head: QuantizedLayer,
    settings: RecipeSettings,
) -> Tensor:
    """Margin mode ``b``: cross entropy to the teacher's answer, whose angle is made larger."""
    labels = wanted.argmax(1)
    centres = Classifier(head.quantized_weight(), None)
    moved = add_margin(logits, head_input, labels, centres, settings.margin)
    return settings.class_weight * F.cross_entropy(moved, labels)


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
            groups.append({"params": [module.weight], "lr": weight_rate * weight_size(module)})
            if module.bias is not None:
                groups.append({"params": [module.bias], "lr": bias_rate * bias_size(module)})
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
