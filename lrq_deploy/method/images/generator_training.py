"""Train the generator against the teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.images.diversity import coarse, diversity_loss, paired_labels, part_of_pairs
from lrq_deploy.method.images.generator import LATENT_SIZE, LongRangeGenerator
from lrq_deploy.method.images.margin import add_margin, angle_penalty, class_angles
from lrq_deploy.method.images.statistics_loss import channel_moments, moments_loss
from lrq_deploy.method.images.wanted import hit_rate, wanted_loss
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import Moving
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.method.steps.precision import reduced_precision
from lrq_deploy.options import MarginMode

__all__ = ["GeneratorTraining"]

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

    def weighted(self, settings: RecipeSettings) -> Tensor:
        """What is minimised, a scalar."""
        return (
            settings.statistics_weight * self.statistics
            + settings.class_weight * self.classes
            + settings.diversity_weight * self.diversity
        )

    def terms(self) -> dict[str, float]:
        """Plain numbers; on a GPU this waits for the step to finish."""
        return {name: float(v.detach()) for name, v in vars(self).items() if v is not None}


class GeneratorTraining:
    """Trains ``generator`` in place, for ``run_stage``.

    Loss: ``statistics_weight * BNS + class_weight * CE(+AMA) + diversity_weight * diversity``;
    for sets of labels binary CE, without AMA, which needs one class. Its terms hold ``hit_rate``,
    the share of images that the teacher puts into the class they were made for (or of the labels
    that it answers as wanted), and ``angle``, their mean angle to the class centre in radians
    (absent without one class or a linear classifier).

    Args:
        generator: on the device of ``context``, as is ``teacher``.
        teacher: whose statistics and classes the images are to meet.
        settings: steps, rates and loss weights.
        margin_mode: reading of AMA; ``b`` is the student's.
        context: where, with whom and from which seed to train.
    """

    name = "generator"

    def __init__(
        self,
        generator: LongRangeGenerator,
        teacher: TappedTeacher,
        settings: RecipeSettings,
        margin_mode: MarginMode,
        context: StageContext,
    ) -> None:
        self.watched = generator.train()
        self.steps = settings.generator_steps
        self.steps_done = 0
        self.images_per_step = settings.batch_size
        self._teacher = teacher
        self._settings = settings
        self._margin_mode = margin_mode
        self.device = context.device
        self.pieces = Pieces(settings.batch_size // context.ranks.count)
        self._ranks = context.ranks
        self._random = torch.Generator().manual_seed(context.seed)
        self._optimizer = torch.optim.Adam(
            generator.parameters(), settings.generator_rate, betas=BETAS
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, self.steps, settings.generator_rate * LAST_RATE
        )
        self._drawn: tuple[Tensor, ...] = ()
        self._losses: _Losses | None = None

    def prepare(self) -> None:
        """Draw classes and latents; ranks draw all of a batch alike, so that their states agree."""
        if self._drawn:
            return
        settings, generator = self._settings, self.watched
        labels = paired_labels(
            settings.batch_size, generator.num_classes, self._random, generator.task
        )
        latent = torch.randn(len(labels), LATENT_SIZE, generator=self._random)
        self._drawn = (part_of_pairs(labels, self._ranks), part_of_pairs(latent, self._ranks))

    def moving(self) -> Moving:
        """The generator with the statistics of its BatchNorms, and the optimiser."""
        return Moving([*self.watched.state_dict().values()], [self._optimizer])

    def step(self) -> None:
        """One batch of new latents: made as a whole, shown to the teacher in pieces if need be."""
        self.prepare()
        labels, latent = self._drawn
        wanted = labels.to(self.device, non_blocking=True)
        latent = latent.to(self.device, non_blocking=True)
        self._optimizer.zero_grad(set_to_none=True)
        reduced = self._settings.reduced_precision
        with reduced_precision(self.device, reduced):
            images = self.watched(latent, self.watched.embed(wanted))

        def loss(*seen: Tensor) -> tuple[Tensor, _Losses]:
            with reduced_precision(self.device, reduced):
                losses = self._losses_of(seen, labels, wanted)
            return losses.weighted(self._settings), losses

        losses = self.pieces.backward((images,), self._seen, loss)
        self._ranks.average_gradients(self._optimizer)
        self._optimizer.step()
        self._losses = losses

    def commit(self) -> None:
        """Count the step."""
        self._schedule.step()
        self._drawn = ()
        self.steps_done += 1

    def _seen(self, images: Tensor) -> tuple[Tensor, ...]:
        """Of some images: logits, features, three coarse maps, and the moments of all taps."""
        with reduced_precision(self.device, self._settings.reduced_precision):
            logits, features, taps = self._teacher.graph(images)
            logits = logits.float()
            features = logits if features is None else features.float()
            moments = channel_moments(taps)
            middle = [tap for tap in taps if tap.dim() == 4] or taps
            spread = [images, *(middle[len(middle) * part // 3] for part in (1, 2))]
            return logits, features, *map(coarse, spread), *moments

    def _losses_of(self, seen: tuple[Tensor, ...], labels: Tensor, wanted: Tensor) -> _Losses:
        """Of ``_seen``, the labels on the CPU, and the same on the device."""
        logits, features, *rest = seen
        maps, moments = rest[:3], rest[3:]
        settings, mode, classifier = self._settings, self._margin_mode, self._teacher.classifier
        angle = None
        target_logits, penalty = logits, logits.new_zeros(())
        if classifier is not None and labels.dim() == 1:
            with torch.no_grad():
                angle = class_angles(features, wanted, classifier).mean()
            if mode == "a1":
                target_logits = add_margin(logits, features, wanted, classifier, settings.margin)
            elif mode == "a2":
                penalty = angle_penalty(features, wanted, classifier, settings.margin)
        return _Losses(
            statistics=moments_loss(moments, self._teacher.statistics, self._ranks),
            classes=wanted_loss(target_logits, wanted) + penalty,
            diversity=diversity_loss(maps, labels),
            hit_rate=hit_rate(logits, wanted),
            angle=angle,
        )

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
