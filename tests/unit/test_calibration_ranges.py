"""Range search: never worse than the full range, exact zeros, dead and damaged tensors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.calibration import ranges
from lrq_deploy.calibration.ranges import (
    MIN_SCALE,
    search_act_range,
    search_weight_scale,
    whole_range,
)
from lrq_deploy.errors import DivergenceError
from lrq_deploy.scheme import IntegerRange

pytestmark = pytest.mark.unit


def loss(x: Tensor, scale: float, zero_point: int, bounds: IntegerRange) -> float:
    q = (torch.round(x / scale) + zero_point).clamp(bounds.qmin, bounds.qmax)
    return float(((q - zero_point) * scale - x).abs().pow(2.4).mean())


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    bits=st.integers(2, 8),
    shift=st.floats(-2, 2),
    spread=st.floats(1e-3, 100),
    symmetric=st.booleans(),
)
def test_never_worse_than_the_whole_range(
    seed: int, bits: int, shift: float, spread: float, symmetric: bool
) -> None:
    x = (torch.randn(500, generator=torch.Generator().manual_seed(seed)) + shift) * spread
    bounds = IntegerRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not symmetric:
        bounds = IntegerRange(0, 2**bits - 1)
    scale, zero_point = search_act_range(x, bounds, signed=True, symmetric=symmetric)
    widest = whole_range(float(x.min()), float(x.max()), bounds, symmetric)
    assert loss(x, scale, zero_point, bounds) <= loss(x, *widest, bounds) * (1 + 1e-6)
    assert bounds.qmin <= zero_point <= bounds.qmax
    assert zero_point == 0 or not symmetric
    assert loss(torch.zeros(1), scale, zero_point, bounds) == 0


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 4), tail=st.floats(1.0, 2.0))
def test_no_other_clip_loses_less(seed: int, bits: int, tail: float) -> None:
    normal = torch.randn(400, generator=torch.Generator().manual_seed(seed))
    x = normal.abs() ** tail * normal.sign()
    bounds = IntegerRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    full = max(float(x.max()) / bounds.qmax, float(x.min()) / bounds.qmin)
    least = min(loss(x, full * part / 1000, 0, bounds) for part in range(10, 1001, 7))
    scale, _ = search_act_range(x, bounds, signed=True, symmetric=True)
    (of_weights,) = search_weight_scale(x[None], 0, bounds).tolist()
    assert loss(x, scale, 0, bounds) <= 1.01 * least
    assert loss(x, of_weights, 0, bounds) <= 1.01 * least


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), axis=st.sampled_from([0, 1]))
def test_weight_scales_are_searched_per_channel(seed: int, bits: int, axis: int) -> None:
    weight = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    bounds = IntegerRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scales = search_weight_scale(weight, axis, bounds)
    assert scales.shape == (weight.shape[axis],)
    for channel, scale in enumerate(scales.tolist()):
        row = weight.select(axis, channel)
        full = max(float(row.max()) / bounds.qmax, float(row.min()) / bounds.qmin)
        assert loss(row, scale, 0, bounds) <= loss(row, full, 0, bounds) * (1 + 1e-5)
        alone = search_weight_scale(row.unsqueeze(0), 0, bounds)
        assert scale == pytest.approx(float(alone), rel=1e-6)


def test_a_layer_of_too_many_weights_is_searched_on_all_parts_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))
    weight = weight.gather(1, weight.abs().argsort(1))
    bounds = IntegerRange(-8, 7)
    whole = search_weight_scale(weight, 0, bounds)
    monkeypatch.setattr(ranges, "LARGEST_SAMPLE", 3000)
    part = search_weight_scale(weight, 0, bounds)
    assert not torch.equal(part, whole)
    torch.testing.assert_close(part, whole, rtol=0.2, atol=0)


def test_outliers_are_clipped() -> None:
    x = torch.cat([torch.linspace(0, 1, 10_000), torch.tensor([3.0])])
    scale, _ = search_act_range(x, IntegerRange(0, 15), signed=False, symmetric=True)
    assert 0.9 / 15 <= scale < 2 / 15


def test_dead_tensors_get_a_usable_scale() -> None:
    assert search_act_range(torch.zeros(9), IntegerRange(0, 15), False, True) == (1 / 15, 0)
    scales = search_weight_scale(torch.zeros(2, 3, 1, 1), 0, IntegerRange(-8, 7))
    assert torch.equal(scales, torch.full((2,), MIN_SCALE))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DivergenceError, match="finite"):
        search_act_range(torch.tensor([0.0, bad]), IntegerRange(-8, 7), True, True)


def test_the_whole_range_clips_nothing() -> None:
    signed = IntegerRange(-128, 127)
    scale, zero_point = whole_range(-1.0, 2.0, signed, symmetric=True)
    assert (scale, zero_point) == (2.0 / 127, 0)
    assert whole_range(-3.0, 1.0, IntegerRange(-8, 7), symmetric=True) == (3.0 / 8, 0)
    unsigned = IntegerRange(0, 255)
    scale, zero_point = whole_range(-1.0, 2.0, unsigned, symmetric=False)
    assert scale == pytest.approx(3 / 255)
    assert zero_point == 85
    assert whole_range(-1.0, 2.0, signed, symmetric=False) == (scale, 85 - 128)
    assert whole_range(0.5, 2.0, unsigned, symmetric=False) == (2.0 / 255, 0)


@pytest.mark.parametrize("in_order", [False, True])
def test_a_range_between_steps_of_five_percent_is_found(in_order: bool) -> None:
    """Sixteen values, 0.78 apart: steps of 5 % of -10..10 reach 0.767 and 0.8 alone."""
    random = torch.Generator().manual_seed(0)
    values = torch.randint(-8, 8, (65_536,), generator=random) * 0.78
    values[:2] = torch.tensor([-10.0, 10.0])
    values = values.sort().values if in_order else values
    bounds = IntegerRange(0, 15)
    scale, zero_point = search_act_range(values, bounds, signed=True, symmetric=False)
    assert scale == pytest.approx(0.78, rel=1e-3)
    assert zero_point == 8
