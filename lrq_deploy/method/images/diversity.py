"""Diversity loss: two images of one class must differ as much as images of two classes.

Ours, not the paper's. Without it the generator meets the batch-norm statistics with one image
per class (nearest neighbours at 23 instead of 47 for real images, ``docs/method.md``). The idea
of weighing distances of images against distances of latents is that of mode seeking (Mao et al.
2019, arXiv 1903.05628); ours compares intra-class to inter-class distances instead, which needs
no scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.method.images.wanted import draw_wanted
from lrq_deploy.ranks import Ranks
from lrq_deploy.task import Task

__all__ = ["coarse", "diversity_loss", "paired_labels", "part_of_pairs"]

COARSE_SIDE = 8
"""Distances are taken on maps averaged to at most 8 x 8: texture is not diversity."""


def paired_labels(
    count: int, num_classes: int, generator: torch.Generator, task: Task = "multiclass"
) -> Tensor:
    """``count`` of ``draw_wanted``, an even number, the second half a repetition of the first."""
    half = draw_wanted(count // 2, num_classes, task, generator)
    return torch.cat([half, half])


def part_of_pairs(batch: Tensor, ranks: Ranks) -> Tensor:
    """This rank's part of a batch ``[N, ...]`` with ``paired_labels``, pairs kept together."""
    first, second = batch.chunk(2)
    part = ranks.part(len(first))
    return torch.cat([first[part], second[part]])


def diversity_loss(maps: list[Tensor], labels: Tensor) -> Tensor:
    """Sum over ``maps`` of ``max(0, 1 - intra / inter)``.

    Args:
        maps: images or feature maps ``[N, C, ...]`` of a batch with ``paired_labels``, or what
            ``coarse`` makes of them.
        labels: classes ``[N]`` or sets ``[N, K]``; image i and i + N/2 share theirs. On the
            CPU, so that no GPU is waited for.

    Returns:
        Scalar; 0 where images of one class differ as much as images of two.
    """
    half = labels.shape[0] // 2
    other = _beside_another(labels[:half]).to(maps[0].device, non_blocking=True)
    if not len(other):
        return maps[0].new_zeros(())
    return torch.stack([_shortfall(coarse(x), half, other) for x in maps]).sum()


def _beside_another(labels: Tensor) -> Tensor:
    """Numbers of the images before which one of another class stands."""
    return (labels != labels.roll(1, 0)).reshape(len(labels), -1).any(1).nonzero()[:, 0]


def coarse(x: Tensor) -> Tensor:
    """Maps ``[N, C, ...]`` averaged to at most 8 x 8, a row of values per image."""
    if x.dim() == 4 and max(x.shape[2:]) > COARSE_SIDE:
        size = (min(x.shape[2], COARSE_SIDE), min(x.shape[3], COARSE_SIDE))
        x = F.adaptive_avg_pool2d(x, size)
    return x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))


def _shortfall(x: Tensor, half: int, other: Tensor) -> Tensor:
    first, second = x[:half], x[half:]
    intra = (first - second).norm(dim=1).mean()
    inter = (first - second.roll(1, 0)).norm(dim=1)[other].mean().detach()
    return F.relu(1 - intra / inter.clamp_min(1e-6))
