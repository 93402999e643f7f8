"""Train the generator against the teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.diversity import diversity_loss, paired_labels, part_of_pairs
from lrq_deploy.method.generator import LATENT_SIZE, LongRangeGenerator
from lrq_deploy.method.loop import KEEP_NOTHING, StageKeeper, run_stage
from lrq_deploy.method.margin import add_margin, angle_penalty, class_angles
from lrq_deploy.method.precision import reduced_precision
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.statistics_loss import statistics_loss
from lrq_deploy.method.wanted import hit_rate, wanted_loss
from lrq_deploy.options import MarginMode
from lrq_deploy.progress import ProgressCallback
from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["GeneratorTraining", "train_generator"]

BETAS = (0.5, 0.999)
LAST_RATE = 1e-2
"""Share of the learning rate that is left at the end of the cosine."""


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
    keeper: StageKeeper = KEEP_NOTHING,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Train ``generator`` in place.

    Loss: ``statistics_weight * BNS + class_weight * CE(+AMA) + diversity_weight * diversity``;
    for sets of labels binary CE, without AMA, which needs one class.
    Teacher and generator must be on ``device``, and the generator the same on all ``ranks``,
    which share each batch.

    Returns:
        Loss terms of the last step, with ``hit_rate``, the share of images that the teacher
        puts into the class they were made for (or of the labels that it answers as wanted), and
        ``angle``, their mean angle to the class centre in radians (absent without one class or a
        linear classifier).

    Raises:
        DivergenceError: a loss is not finite; ``generator`` then holds the last good state.
    """
    stage = GeneratorTraining(generator, teacher, settings, margin_mode, seed, device, ranks)
    return run_stage(stage, progress, keeper, ranks)


class GeneratorTraining:
    """The training of ``train_generator``, step by step; see ``ResumableStage``."""

    name = "generator"

    def __init__(
        self,
        generator: LongRangeGenerator,
        teacher: TappedTeacher,
        settings: RecipeSettings,
        margin_mode: MarginMode,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.watched = generator.train()
        self.steps = settings.generator_steps
        self.steps_done = 0
        self.images_per_step = settings.batch_size
        self._teacher = teacher
        self._settings = settings
        self._margin_mode = margin_mode
        self._device = device
        self._ranks = ranks
        self._random = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.Adam(
            generator.parameters(), settings.generator_rate, betas=BETAS
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, self.steps, settings.generator_rate * LAST_RATE
        )
        self._losses: _Losses | None = None

    def step(self) -> None:
        """One batch of new latents; ranks draw all of it alike, so that their states agree."""
        settings, generator = self._settings, self.watched
        labels = paired_labels(
            settings.batch_size, generator.num_classes, self._random, generator.task
        )
        latent = torch.randn(len(labels), LATENT_SIZE, generator=self._random)
        labels = part_of_pairs(labels, self._ranks).to(self._device)
        latent = part_of_pairs(latent, self._ranks).to(self._device)
        with reduced_precision(self._device, settings.reduced_precision):
            images = generator(latent, generator.embed(labels))
            losses = _losses(
                self._teacher, images, labels, settings, self._margin_mode, self._ranks
            )
        loss = (
            settings.statistics_weight * losses.statistics
            + settings.class_weight * losses.classes
            + settings.diversity_weight * losses.diversity
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._ranks.average_gradients(self._optimizer)
        self._optimizer.step()
        self._schedule.step()
        self._losses = losses
        self.steps_done += 1

    def terms(self) -> dict[str, float]:
        """Loss terms of the last step."""
        return {} if self._losses is None else self._losses.terms()

    def state_dict(self) -> dict[str, Any]:
        """State of the network, its optimiser and the random numbers."""
        return {
            "steps_done": self.steps_done,
            "generator": self.watched.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": self._random.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.steps_done = state["steps_done"]
        self.watched.load_state_dict(state["generator"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._random.set_state(state["random"])


def _losses(
    teacher: TappedTeacher,
    images: Tensor,
    labels: Tensor,
    settings: RecipeSettings,
    margin_mode: MarginMode,
    ranks: Ranks,
) -> _Losses:
    logits, features, taps = teacher.graph(images)
    logits, classifier = logits.float(), teacher.classifier
    angle = None
    target_logits, penalty = logits, logits.new_zeros(())
    if classifier is not None and labels.dim() == 1:
        features = features.float()
        with torch.no_grad():
            angle = class_angles(features, labels, classifier).mean()
        if margin_mode == "a1":
            target_logits = add_margin(logits, features, labels, classifier, settings.margin)
        elif margin_mode == "a2":
            penalty = angle_penalty(features, labels, classifier, settings.margin)
    middle = [tap for tap in taps if tap.dim() == 4]
    spread = [images, *(middle[len(middle) * part // 3] for part in (1, 2))]
    return _Losses(
        statistics=statistics_loss(taps, teacher.statistics, ranks),
        classes=wanted_loss(target_logits, labels) + penalty,
        diversity=diversity_loss(spread, labels),
        hit_rate=hit_rate(logits, labels),
        angle=angle,
    )
