"""How equal two forms of one network are, on the same images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lrq_deploy.errors import ParityError
from lrq_deploy.task import Task, answers

__all__ = ["ROW_TOLERANCE", "Parity", "compare"]

ROW_TOLERANCE = 1e-5
"""Relative to the largest logit of both forms: the last layer's integers are equal, but their
float32 scaling may be done in another order, which costs a few units of 2**-24."""


@dataclass(frozen=True)
class Parity:
    """Comparison of two sets of logits.

    Attributes:
        count: images compared.
        same_top1: share of the same answers, 0..1: one per image, or one per label.
        same_rows: share of images whose logits are the same integers, that is, equal up to
            ``ROW_TOLERANCE``, 0..1.
        identical_rows: share of images whose logits have the same bits, 0..1.
        max_diff: largest absolute difference of a logit.
        mean_diff: mean absolute difference of the logits.
    """

    count: int
    same_top1: float
    same_rows: float
    identical_rows: float
    max_diff: float
    mean_diff: float

    def to_json(self) -> dict[str, float]:
        """Plain values."""
        return dict(vars(self))


def compare(a: Tensor, b: Tensor, task: Task = "multiclass") -> Parity:
    """Compare logits ``[N, classes]`` of two forms of one network.

    Raises:
        ParityError: the shapes differ, there are no rows, or a logit is not finite.
    """
    if a.shape != b.shape or a.dim() != 2 or a.shape[0] == 0:
        raise ParityError(
            "both forms must give logits [N, classes] for the same images, N > 0",
            f"{list(a.shape)} and {list(b.shape)}",
            "compare graphs of one bundle on at least one image",
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ParityError("logits must be finite", "NaN or Inf", "check the images and the graph")
    difference = (a.double() - b.double()).abs()
    limit = ROW_TOLERANCE * max(float(a.abs().max()), float(b.abs().max()))
    return Parity(
        count=a.shape[0],
        same_top1=_share(answers(a, task) == answers(b, task)),
        same_rows=_share((difference <= limit).all(1)),
        identical_rows=_share((a == b).all(1)),
        max_diff=float(difference.max()),
        mean_diff=float(difference.mean()),
    )


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
