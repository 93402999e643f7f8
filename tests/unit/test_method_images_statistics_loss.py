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


def formula(taps: list[Tensor], stored: tuple[NormStatistics, ...]) -> Tensor:
    """``mean_c ((mu - mu_l) / sigma_l)^2 + (sigma / sigma_l - 1)^2``, averaged over layers."""
    terms = []
    for x, norm in zip(taps, stored, strict=True):
        found, deviation = own(x), norm.var.sqrt()
        moved = (found.mean - norm.mean) / deviation
        wider = found.var.sqrt() / deviation - 1
        terms.append((moved**2 + wider**2).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("pieces", [1, 4])
def test_loss_and_gradient_are_those_of_the_formula(pieces: int) -> None:
    taps = [x.requires_grad_() for x in (tap(0), tap(1, (16, 4)), tap(2, (4, 2, 9)))]
    near, far = NormStatistics(torch.ones(3), torch.full((3,), 5.0)), own(tap(3, (9, 4)))
    stored = (near, far, NormStatistics(torch.tensor([8.0, -8.0]), torch.tensor([0.3, 40.0])))
    parts = zip(*(x.chunk(pieces) for x in taps), strict=True)
    columns = zip(*(channel_moments(list(part)) for part in parts), strict=True)
    loss = moments_loss([torch.cat(column) for column in columns], stored)
    expected = formula(taps, stored)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    found, wanted = (torch.autograd.grad(x, taps) for x in (loss, expected))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_it_does_not_depend_on_the_unit_of_the_layer() -> None:
    x, stored = tap(0), NormStatistics(torch.zeros(3), torch.ones(3))
    large = NormStatistics(torch.zeros(3), torch.full((3,), 1e4))
    assert float(statistics_loss([x], (stored,))) == pytest.approx(
        float(statistics_loss([x * 100], (large,))), rel=1e-3
    )
