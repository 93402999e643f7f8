"""The statistics loss is 0 where batches agree with the stored statistics, and scale-free."""

import pytest
import torch
from torch import Tensor

from lrq_deploy.graph.statistics import NormStatistics
from lrq_deploy.method.images.statistics_loss import channel_moments, moments_loss

pytestmark = pytest.mark.unit


def tap(seed: int, shape: tuple[int, ...] = (8, 3, 5, 5)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def own(x: Tensor) -> NormStatistics:
    axes = [a for a in range(x.dim()) if a != 1]
    var, mean = torch.var_mean(x, axes, correction=0)
    return NormStatistics(mean, var)


def statistics_loss(taps: list[Tensor], stored: tuple[NormStatistics, ...]) -> Tensor:
    return moments_loss(channel_moments(taps), stored)


def test_zero_where_equal_at_any_rank() -> None:
    taps = [tap(0), tap(1, (16, 4)), tap(2, (6, 2, 9))]
    assert float(statistics_loss(taps, tuple(own(t) for t in taps))) == pytest.approx(0, abs=1e-9)


def test_it_grows_with_the_distance() -> None:
    x = tap(0)
    stored = own(x)
    near = NormStatistics(stored.mean + 0.1, stored.var * 1.1)
    far = NormStatistics(stored.mean + 1.0, stored.var * 4.0)
    assert 0 < float(statistics_loss([x], (near,))) < float(statistics_loss([x], (far,)))


def test_it_does_not_depend_on_the_unit_of_the_layer() -> None:
    x, stored = tap(0), NormStatistics(torch.zeros(3), torch.ones(3))
    large = NormStatistics(torch.zeros(3), torch.full((3,), 1e4))
    assert float(statistics_loss([x], (stored,))) == pytest.approx(
        float(statistics_loss([x * 100], (large,))), rel=1e-3
    )


def test_it_teaches_the_images() -> None:
    x = tap(0).requires_grad_()
    stored = NormStatistics(torch.zeros(3), torch.ones(3))
    first = statistics_loss([x], (stored,))
    (grad,) = torch.autograd.grad(first, x)
    step = 0.1 / float(grad.norm())
    assert float(statistics_loss([(x - step * grad).detach()], (stored,))) < float(first.detach())
