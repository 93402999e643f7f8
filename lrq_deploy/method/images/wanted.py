"""What a synthetic image is asked to show: one class, or a set of labels.

Classes are indices ``[N]`` int64; sets of labels are 0 or 1 per label, ``[N, K]`` float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.task import Task

__all__ = ["draw_wanted", "hit_rate", "wanted_loss"]

USUAL_LABELS = 2
"""Labels per image on average where there are more than twice as many to choose from."""


def draw_wanted(count: int, num_classes: int, task: Task, generator: torch.Generator) -> Tensor:
    """``count`` random classes, or sets in which each label stands by chance on its own."""
    if task == "multiclass":
        return torch.randint(num_classes, (count,), generator=generator)
    chance = min(0.5, USUAL_LABELS / num_classes)
    return (torch.rand(count, num_classes, generator=generator) < chance).float()


def wanted_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy to the class, or the binary one of the labels, mean over images (and labels).

    Args:
        logits: ``[N, K]``.
        wanted: of ``draw_wanted``.
    """
    if wanted.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits, wanted)
    return F.cross_entropy(logits, wanted)


def hit_rate(logits: Tensor, wanted: Tensor) -> Tensor:
    """Share of the classes, or of the labels, that the logits answer as wanted, 0..1."""
    hits = (logits > 0) == wanted.bool() if wanted.dim() == 2 else logits.argmax(1) == wanted
    return hits.float().mean()
