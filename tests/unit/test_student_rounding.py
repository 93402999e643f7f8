"""Learned rounding: it starts at the weights, moves them by less than a step, and decides."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import Residual, calibrated

from lrq_deploy.student.layers import QuantizedLayer
from lrq_deploy.student.rounding import LearnedRounding

pytestmark = pytest.mark.unit

weights = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=24).map(torch.tensor)
scales = st.floats(0.015625, 0.5, width=32).map(torch.tensor)


@given(weights, scales)
def test_it_starts_where_the_weights_are(weight: torch.Tensor, scale: torch.Tensor) -> None:
    rounding = LearnedRounding(weight, scale)
    # Fractions keep 0.01 off both neighbours.
    torch.testing.assert_close(rounding.integers().detach(), weight / scale, atol=0.0101, rtol=1e-5)


@given(weights, scales, st.integers(0, 2**31))
def test_a_choice_is_one_of_both_neighbours(
    weight: torch.Tensor, scale: torch.Tensor, seed: int
) -> None:
    rounding = LearnedRounding(weight, scale)
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        rounding.preference.copy_(torch.randn(weight.shape, generator=random))
    settled = rounding.settled()
    assert torch.equal(settled, settled.round())
    assert torch.equal(settled - rounding.floor, (rounding.preference > 0).float())


@given(weights, scales)
def test_every_weight_can_still_choose(weight: torch.Tensor, scale: torch.Tensor) -> None:
    """On the grid too, where ``h`` would be clipped at its end and have no gradient."""
    rounding = LearnedRounding((weight / scale).round() * scale, scale)
    rounding.integers().sum().backward()
    assert rounding.preference.grad is not None
    assert bool((rounding.preference.grad > 0).all())


@pytest.mark.parametrize("sharpness", [2.0, 20.0])
def test_indecision_is_the_share_of_weights_that_have_not_chosen(sharpness: float) -> None:
    rounding = LearnedRounding(torch.zeros(8), torch.tensor(1.0))
    with torch.no_grad():
        rounding.preference.copy_(torch.tensor([0.0, 0.0, 9.0, 9.0, -9.0, -9.0, 9.0, -9.0]))
    assert rounding.indecision(sharpness).item() == pytest.approx(0.25)


def test_indecision_is_what_keeps_weights_between_integers() -> None:
    rounding = LearnedRounding(torch.tensor([0.6, 0.25, 1.0]), torch.tensor(1.0))
    optimizer = torch.optim.Adam([rounding.preference], 0.1)
    before = rounding.indecision(2.0).item()
    for _ in range(100):
        optimizer.zero_grad()
        rounding.indecision(2.0).backward()
        optimizer.step()
    assert rounding.indecision(2.0).item() < 0.1 * before
    assert torch.equal(rounding.fraction().round(), (rounding.preference > 0).float())


def test_a_state_continues_a_rounding() -> None:
    weight = torch.linspace(-1, 1, 7)
    first, second = (LearnedRounding(weight * f, torch.tensor(0.3)) for f in (1.0, 0.5))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.integers(), second.integers())


def test_a_layer_settles_on_the_integers_that_were_chosen() -> None:
    student = calibrated(Residual())
    layer = next(m for m in student.modules() if isinstance(m, QuantizedLayer))
    rounding = layer.learn_rounding()
    with torch.no_grad():
        rounding.preference.fill_(3.0)
    chosen = layer.quantized_weight().detach()
    layer.settle_rounding(layer.settled_weight())
    assert layer.rounding is None
    torch.testing.assert_close(layer.quantized_weight(), chosen)
    shape = [-1] + [1] * (chosen.dim() - 1)
    expected = rounding.settled().clamp(layer.bounds.qmin, layer.bounds.qmax)
    torch.testing.assert_close(chosen / layer.scale.reshape(shape), expected)
