"""Train the generator against the teacher."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.divergence import DivergenceGuard
from lrq_deploy.method.diversity import diversity_loss, paired_labels
from lrq_deploy.method.generator import LATENT_SIZE, LongRangeGenerator
from lrq_deploy.method.margin import add_margin, angle_penalty, class_angles
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.statistics_loss import statistics_loss
from lrq_deploy.options import MarginMode
from lrq_deploy.progress import ProgressCallback, StageProgress

__all__ = ["train_generator"]

BETAS = (0.5, 0.999)
LAST_RATE = 1e-2
"""Share of the learning rate that is left at the end of the cosine."""
CHECK_EVERY = 25


@dataclass(frozen=True)
class _Losses:
    statistics: Tensor
    classes: Tensor
    diversity: Tensor
    hit_rate: Tensor
    angle: Tensor | None

    def terms(self) -> dict[str, float]:
        """Plain numbers; on a GPU this waits for the step to finish."""
        return {name: float(v.detach()) for name, v in vars(self).items() if v is not None}


def train_generator(
    generator: LongRangeGenerator,
    teacher: TappedTeacher,
    settings: RecipeSettings,
    margin_mode: MarginMode,
    seed: int,
    device: torch.device,
    progress: ProgressCallback,
) -> dict[str, float]:
    """Train ``generator`` in place.

    Loss: ``statistics_weight * BNS + class_weight * CE(+AMA) + diversity_weight * diversity``.
    Teacher and generator must be on ``device``.

    Returns:
        Loss terms of the last step, with ``hit_rate``, the share of images that the teacher
        puts into the class they were made for, and ``angle``, their mean angle to the class
        centre in radians (absent without a linear classifier).

    Raises:
        DivergenceError: a loss is not finite; ``generator`` then holds the last good state.
    """
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(generator.parameters(), settings.generator_rate, betas=BETAS)
    steps = settings.generator_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, steps, settings.generator_rate * LAST_RATE
    )
    guard = DivergenceGuard("generator", generator)
    report = StageProgress(progress, "generator", steps, settings.batch_size)
    terms: dict[str, float] = {}
    generator.train()
    for step in range(steps):
        labels = paired_labels(settings.batch_size, generator.num_classes, random).to(device)
        latent = torch.randn(len(labels), LATENT_SIZE, generator=random).to(device)
        images = generator(latent, generator.embed(labels))
        losses = _losses(teacher, images, labels, settings, margin_mode)
        loss = (
            settings.statistics_weight * losses.statistics
            + settings.class_weight * losses.classes
            + settings.diversity_weight * losses.diversity
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == steps:
            terms = losses.terms()
            guard.check(step + 1, terms)
        report.advance(terms)
    return terms


def _losses(
    teacher: TappedTeacher,
    images: Tensor,
    labels: Tensor,
    settings: RecipeSettings,
    margin_mode: MarginMode,
) -> _Losses:
    logits, features, taps = teacher.graph(images)
    classifier = teacher.classifier
    angle = None
    target_logits, penalty = logits, logits.new_zeros(())
    if classifier is not None:
        with torch.no_grad():
            angle = class_angles(features, labels, classifier).mean()
        if margin_mode == "a1":
            target_logits = add_margin(logits, features, labels, classifier, settings.margin)
        elif margin_mode == "a2":
            penalty = angle_penalty(features, labels, classifier, settings.margin)
    middle = [tap for tap in taps if tap.dim() == 4]
    spread = [images, *(middle[len(middle) * part // 3] for part in (1, 2))]
    return _Losses(
        statistics=statistics_loss(taps, teacher.statistics),
        classes=F.cross_entropy(target_logits, labels) + penalty,
        diversity=diversity_loss(spread, labels),
        hit_rate=(logits.argmax(1) == labels).float().mean(),
        angle=angle,
    )
