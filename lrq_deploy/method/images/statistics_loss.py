"""Batch-norm statistics loss: synthetic batches must look to the teacher as its data did.

GDFQ (arXiv 2003.03603, eq. 4): for every BatchNorm l, the distance of the mean and variance of
its input over the batch to the stored ones. Ours is relative to the stored deviation,
``mean_c ((mu - mu_l) / sigma_l)^2 + (sigma / sigma_l - 1)^2``, averaged over layers, so that one
weight serves networks of any scale.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.graph.statistics import NormStatistics
from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["channel_moments", "moments_loss"]

EPSILON = 1e-5


def channel_moments(taps: list[Tensor]) -> list[Tensor]:
    """Mean and biased variance of each tap ``[N, C, ...]`` in turn, all ``[1, C]``."""
    return [moment[None] for tap in taps for moment in _ChannelMoments.apply(tap)]


def moments_loss(
    moments: Sequence[Tensor], stored: tuple[NormStatistics, ...], ranks: Ranks = ALONE
) -> Tensor:
    """Mean relative distance of the statistics of a batch to the stored ones.

    Args:
        moments: ``channel_moments`` of the batch, of P equal pieces of it ``[P, C]``.
        stored: running statistics, each ``[C]``, in the order of the taps.
        ranks: whose pieces are one batch; for the gradient see ``Ranks.pooled``.

    Returns:
        Scalar, 0 where all statistics agree.
    """
    pairs = list(zip(moments[::2], moments[1::2], strict=True))
    if len(moments[0]) > 1 or ranks.count > 1:
        pairs = _of_all(pairs, stored, ranks)
    else:
        pairs = [(mean.squeeze(0), var.squeeze(0)) for mean, var in pairs]
    terms = [_distance(*found, norm) for found, norm in zip(pairs, stored, strict=True)]
    return torch.stack(terms).mean()


def _of_all(
    moments: list[tuple[Tensor, Tensor]], stored: tuple[NormStatistics, ...], ranks: Ranks
) -> list[tuple[Tensor, Tensor]]:
    """Means and variances of the batch that all ranks and pieces hold in equal parts.

    Moments about the stored means add up, and lose no digits once the means have come close.
    """
    shifts = [mean - norm.mean for (mean, _), norm in zip(moments, stored, strict=True)]
    squares = [var + shift.square() for (_, var), shift in zip(moments, shifts, strict=True)]
    sizes = [shift.shape[1] for shift in shifts]
    pooled = ranks.pooled(torch.cat([*shifts, *squares], 1).mean(0)).split(sizes * 2)
    pairs = zip(pooled[: len(sizes)], pooled[len(sizes) :], stored, strict=True)
    return [(norm.mean + shift, square - shift.square()) for shift, square, norm in pairs]


def _distance(mean: Tensor, var: Tensor, norm: NormStatistics) -> Tensor:
    deviation = (norm.var + EPSILON).sqrt()
    mean_error = (mean - norm.mean) / deviation
    deviation_error = (var + EPSILON).sqrt() / deviation - 1
    return (mean_error.square() + deviation_error.square()).mean()


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance per channel, each ``[C]``, of ``x`` ``[N, C, ...]``.

    Both ways are kernels of BatchNorm, which hold float32 moments of bfloat16 maps and read
    channels-last ones in order; ``torch.var_mean`` with its gradient takes many times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(x.shape[1], device=x.device)
        mean, var = torch.batch_norm_update_stats(x, zeros, torch.ones_like(zeros), 0.0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_mean, grad_var = grads
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        # grad_mean / count + (x - mean) * grad_var * 2 / count
        slope, offset = grad_var * (2 / count), grad_mean / count
        # An eps of 0 is refused by torch 2.11; this one is lost beside a variance of 1.
        return F.batch_norm(x, mean, torch.ones_like(mean), slope, offset, eps=1e-30)
