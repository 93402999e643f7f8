"""Fit the student to the teacher on synthetic images.

The student is the float network with its quantizers on; its float twin (quantizers off) is the
teacher, so both share every tensor name. The loss is distillation of the logits plus the
relative squared error of the block outputs; no label takes part (except in margin mode ``b``).
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lrq_deploy.graph.features import head_layer, with_features
from lrq_deploy.graph.statistics import Classifier
from lrq_deploy.method.distillation import decoupled_distillation, plain_distillation
from lrq_deploy.method.divergence import DivergenceGuard
from lrq_deploy.method.margin import add_margin
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled

__all__ = ["train_student"]

WARM_UP_STEPS = 20
CHECK_EVERY = 25
SHIFT_FRACTION = 8


@dataclass(frozen=True)
class _Twins:
    """Student and float twin, both ``images -> (logits, [features], head_input)``."""

    student: fx.GraphModule
    teacher: fx.GraphModule
    head: QuantizedLayer | None


def train_student(
    student: fx.GraphModule,
    images: Tensor,
    settings: RecipeSettings,
    switches: MethodSwitches,
    seed: int,
    device: torch.device,
    progress: ProgressCallback,
) -> dict[str, float]:
    """Train ``student`` in place; it must be calibrated.

    Args:
        student: placed and calibrated; moved to ``device``.
        images: normalised synthetic images ``[N, C, H, W]`` on the CPU.
        settings: steps, rates and loss weights.
        switches: decoupled or plain distillation; margin mode ``b``.
        seed: of the order and augmentation of the images.
        device: where to train.
        progress: receives the loss terms.

    Returns:
        Loss terms of the last check.

    Raises:
        DivergenceError: a loss is not finite; ``student`` then holds the last good state.
    """
    student.to(device).to(memory_format=torch.channels_last)
    twins = _twins(student)
    optimizer = _optimizer(student, settings)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    guard = DivergenceGuard("student", student)
    report = StageProgress(progress, "student", settings.student_steps, settings.batch_size)
    terms: dict[str, float] = {}
    for step, batch in enumerate(_batches(images, settings, seed)):
        rate = _schedule(step, settings.student_steps)
        for group, base in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = base * rate
        batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
        losses = _losses(twins, batch, settings, switches)
        optimizer.zero_grad(set_to_none=True)
        (losses.distillation + settings.feature_weight * losses.features + losses.margin).backward()
        optimizer.step()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == settings.student_steps:
            terms = {name: float(value.detach()) for name, value in vars(losses).items()}
            guard.check(step + 1, terms)
        report.advance(terms)
    return terms


def _twins(student: fx.GraphModule) -> _Twins:
    teacher = copy.deepcopy(student)
    set_enabled(teacher, False)
    teacher.requires_grad_(False)
    return _Twins(with_features(student), with_features(teacher), head_layer(student))


@dataclass(frozen=True)
class _Losses:
    distillation: Tensor
    features: Tensor
    margin: Tensor


def _losses(
    twins: _Twins, batch: Tensor, settings: RecipeSettings, switches: MethodSwitches
) -> _Losses:
    with torch.no_grad():
        teacher_logits, teacher_features, _ = twins.teacher(batch)
    logits, features, head_input = twins.student(batch)
    if switches.decoupled:
        distillation = decoupled_distillation(
            logits, teacher_logits, settings.temperature, 1.0, settings.other_weight
        )
    else:
        distillation = plain_distillation(logits, teacher_logits, settings.temperature)
    errors = [
        F.mse_loss(mine, theirs) / theirs.square().mean().clamp_min(1e-12)
        for mine, theirs in zip(features, teacher_features, strict=True)
    ]
    margin = logits.new_zeros(())
    if switches.margin == "b" and twins.head is not None:
        labels = teacher_logits.argmax(1)
        centres = Classifier(twins.head.quantized_weight(), None)
        moved = add_margin(logits, head_input, labels, centres, settings.margin)
        margin = settings.class_weight * F.cross_entropy(moved, labels)
    return _Losses(distillation, torch.stack(errors).mean(), margin)


def _optimizer(student: nn.Module, settings: RecipeSettings) -> torch.optim.Adam:
    """Adam with rates relative to the size of what they move.

    A fixed rate would cross many integer steps in a layer of small weights and none in one of
    large weights.
    """
    groups: list[dict[str, object]] = []
    scales: list[nn.Parameter] = []
    rate = settings.weight_rate * _fineness(student)
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            scales.append(module.log_scale)
            for tensor in (module.weight, module.bias):
                if tensor is not None:
                    size = float(tensor.detach().square().mean().sqrt().clamp_min(1e-3))
                    groups.append({"params": [tensor], "lr": rate * size})
        elif isinstance(module, ActQuantizer):
            module.log_scale.requires_grad_(module.known_range is None)
            if module.known_range is None:
                scales.append(module.log_scale)
    groups.append({"params": scales, "lr": settings.scale_rate})
    return torch.optim.Adam(groups)


def _fineness(student: nn.Module) -> float:
    """Integer step of the coarsest layer relative to 4 bits, at most 1.

    Weights need to move by about one step to round otherwise; at 8 bits a rate that suits 4
    crosses many and only adds noise. Finer layers beside coarse ones make up for their errors.
    """
    bits = [m.bits for m in student.modules() if isinstance(m, QuantizedLayer)]
    return float(min(1.0, 2.0 ** (4 - min(bits, default=4))))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to 0."""
    warm = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(steps // 5, 1)))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _batches(images: Tensor, settings: RecipeSettings, seed: int) -> Iterator[Tensor]:
    """Augmented random batches, one per step; every image is seen before any comes twice."""
    random = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.student_steps):
        while len(order) < settings.batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=random)])
        chosen, order = order.split([settings.batch_size, len(order) - settings.batch_size])
        yield torch.cat([_shifted(part, random) for part in images[chosen].split(16)])


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror at random and move by up to an eighth of the side, reflecting at the border."""
    if torch.rand((), generator=random) < 0.5:
        images = images.flip(3)
    height, width = images.shape[2:]
    rows, columns = height // SHIFT_FRACTION, width // SHIFT_FRACTION
    padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
    top = int(torch.randint(2 * rows + 1, (), generator=random))
    left = int(torch.randint(2 * columns + 1, (), generator=random))
    return padded[:, :, top : top + height, left : left + width]
