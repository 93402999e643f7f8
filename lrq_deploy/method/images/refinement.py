"""Refine drawn images: a few optimiser steps on the pixels themselves.

The generator gives images that are varied but meet the teacher's statistics only roughly; each
batch is then moved a little until it meets them closely. ZeroQ (arXiv 2001.00281) optimises
pixels from noise over hundreds of steps; starting from the generator, the 15 to 25 of the recipes
suffice (``fast`` takes none), and the images keep their structure.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.images.statistics_loss import channel_moments, moments_loss
from lrq_deploy.method.images.wanted import wanted_loss
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import Moving
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.method.steps.precision import reduced_precision

__all__ = ["Refinement"]


class Refinement:
    """The refinement of one batch, step by step.

    Args:
        images: normalised ``[N, C, H, W]``, which stay as they are.
        labels: their classes ``[N]`` or sets of labels ``[N, K]``.
        teacher: on the device of ``images``.
        settings: ``refinement_steps`` of Adam at ``refinement_rate`` times the mean range of
            the input, falling linearly to 0.
        bounds: lowest and highest input per channel, each ``[C, 1, 1]``.
        pieces: of a batch that the device has no room for.

    Attributes:
        pixels: the images as they are now.
        steps_done: so far.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        teacher: TappedTeacher,
        settings: RecipeSettings,
        bounds: tuple[Tensor, Tensor],
        pieces: Pieces,
    ) -> None:
        self.pixels = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
        self.steps_done = 0
        self._labels = labels
        self._teacher = teacher
        self._settings = settings
        self._bounds = bounds
        self._pieces = pieces
        # Inputs are divided by a deviation or not, and so span 4.4 or 1.
        self._rate = settings.refinement_rate * float((bounds[1] - bounds[0]).mean())
        self._optimizer = torch.optim.Adam([self.pixels], self._rate)

    def step(self) -> Tensor:
        """Move the pixels once, which the caller counts; the loss before, a scalar."""
        settings, pixels = self._settings, self.pixels
        share = 1 - self.steps_done / settings.refinement_steps
        self._optimizer.param_groups[0]["lr"] = self._rate * share
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._pieces.backward((pixels,), self._seen, self._loss)
        self._optimizer.step()
        with torch.no_grad():
            pixels.copy_(torch.minimum(torch.maximum(pixels, self._bounds[0]), self._bounds[1]))
        return loss.detach()

    def moving(self) -> Moving:
        """The pixels and their optimiser."""
        return Moving([self.pixels], [self._optimizer])

    def _seen(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Of some images: logits, and the moments of all taps."""
        with reduced_precision(pixels.device, self._settings.reduced_precision):
            logits, _, taps = self._teacher.graph(pixels)
        return logits.float(), *channel_moments(taps)

    def _loss(self, logits: Tensor, *moments: Tensor) -> tuple[Tensor, Tensor]:
        settings = self._settings
        loss = settings.statistics_weight * moments_loss(moments, self._teacher.statistics)
        loss = loss + settings.class_weight * wanted_loss(logits, self._labels)
        return loss, loss

    def state_dict(self) -> dict[str, Any]:
        """State of the pixels and their optimiser."""
        return {
            "steps_done": self.steps_done,
            "pixels": self.pixels.detach(),
            "labels": self._labels,
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; images and labels are replaced by those of then."""
        self.steps_done = state["steps_done"]
        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
        self._labels = state["labels"].to(self.pixels.device)
        self._optimizer.load_state_dict(state["optimizer"])
