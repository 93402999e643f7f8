"""Refine drawn images: a few optimiser steps on the pixels themselves.

The generator gives images that are varied but meet the teacher's statistics only roughly; each
batch is then moved a little until it meets them closely. ZeroQ (arXiv 2001.00281) optimises
pixels from noise over hundreds of steps; starting from the generator, 25 steps suffice, and the
images keep their structure.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.statistics_loss import statistics_loss

__all__ = ["refine"]


def refine(
    images: Tensor,
    labels: Tensor,
    teacher: TappedTeacher,
    settings: RecipeSettings,
    bounds: tuple[Tensor, Tensor],
) -> Tensor:
    """Images closer to the stored statistics, still of their classes.

    Args:
        images: one batch, normalised ``[N, C, H, W]``.
        labels: their classes ``[N]``.
        teacher: on the device of ``images``.
        settings: ``refinement_steps`` of Adam at ``refinement_rate``, falling linearly to 0.
        bounds: lowest and highest input per channel, each ``[C, 1, 1]``.
    """
    pixels = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
    optimizer = torch.optim.Adam([pixels], settings.refinement_rate)
    for step in range(settings.refinement_steps):
        optimizer.param_groups[0]["lr"] = settings.refinement_rate * (
            1 - step / settings.refinement_steps
        )
        logits, _, taps = teacher.graph(pixels)
        loss = settings.statistics_weight * statistics_loss(taps, teacher.statistics)
        loss = loss + settings.class_weight * F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pixels.copy_(torch.minimum(torch.maximum(pixels, bounds[0]), bounds[1]))
    return pixels.detach()
