"""Signed integers of few bits lie where the values do, with zero point 0."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.calibration.act_range import ActRange, fit_act_range
from lrq_deploy.calibration.ranges import search_act_range
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.layers import ActQuantizer
from lrq_deploy.target import PORTABLE, TargetDescription

pytestmark = pytest.mark.unit


def fitted(
    x: Tensor,
    bits: int,
    signed: bool = True,
    symmetric: bool = True,
    known: tuple[float, float] | None = None,
    search: bool = True,
    target: TargetDescription = PORTABLE,
) -> ActRange:
    bounds = target.act_range(bits, signed, symmetric)
    quantizer = ActQuantizer(bounds, bits, signed, known, target.carrier_qmax)
    return fit_act_range(quantizer, x, bounds, symmetric, search)


def loss(x: Tensor, found: ActRange) -> float:
    steps = torch.round(x / found.scale) + found.zero_point
    q = steps.clamp(found.bounds.qmin, found.bounds.qmax) - found.zero_point
    return float((q * found.scale - x).abs().pow(2.4).mean())


def normal(seed: int = 0, count: int = 4000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 7])
def test_a_shallow_negative_side_takes_few_integers(bits: int) -> None:
    x = F.hardswish(2 * normal())
    found = fitted(x, bits)
    assert found.zero_point == 0
    assert found.bounds.levels == 2**bits
    assert -found.bounds.qmin < 2**bits / 8
    centred = PORTABLE.act_range(bits, signed=True, symmetric=True)
    scale, _ = search_act_range(x, centred, signed=True, symmetric=True)
    assert loss(x, found) < 0.6 * loss(x, ActRange(scale, 0, centred))


def test_values_of_both_signs_stay_in_the_middle() -> None:
    found = fitted(normal(), 4)
    assert found.bounds.qmin in (-8, -7)
    assert found.bounds.levels == 16


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    bits=st.integers(2, 7),
    shift=st.floats(-3, 3),
    search=st.booleans(),
)
def test_int8_holds_every_window(seed: int, bits: int, shift: float, search: bool) -> None:
    x = normal(seed, 300) + shift
    found = fitted(x, bits, search=search)
    assert found.zero_point == 0
    assert -128 <= found.bounds.qmin <= 0 <= found.bounds.qmax <= 127
    assert found.bounds.levels == 2**bits
    if not search:
        # The window lies on whole integers, so a value at its end may lie half a step beyond.
        assert found.scale * (found.bounds.qmin - 0.501) <= float(x.min())
        assert float(x.max()) <= found.scale * (found.bounds.qmax + 0.501)


def test_values_that_are_all_0_keep_both_signs() -> None:
    assert fitted(torch.zeros(9), 4) == ActRange(1 / 7, 0, IntegerRange(-8, 7))


def test_an_image_of_few_bits_uses_them_all() -> None:
    low, high = -2.0, 3.0
    found = fitted(torch.empty(0), 4, known=(low, high))
    assert found.zero_point == 0
    assert found.bounds == IntegerRange(-6, 9)
    assert found.scale == pytest.approx(5 / 15)


def test_eight_bits_fill_int8_but_not_what_uint8_holds() -> None:
    x = F.hardswish(2 * normal())
    portable = fitted(x, 8)
    assert portable.bounds == IntegerRange(-128, 127)
    alone = fitted(x, 8, target=TargetDescription("onnxruntime", carrier_qmax=255))
    assert alone.zero_point == 0
    assert alone.bounds.levels == 256
    assert alone.bounds.qmin > -32
    assert loss(x, alone) < loss(x, portable) / 2


@pytest.mark.parametrize(("signed", "symmetric"), [(False, True), (False, False), (True, False)])
def test_other_ranges_keep_their_integers(signed: bool, symmetric: bool) -> None:
    x = normal() if signed else normal().relu()
    bounds = PORTABLE.act_range(4, signed, symmetric)
    found = fitted(x, 4, signed, symmetric)
    assert found.bounds == bounds
    assert (found.scale, found.zero_point) == search_act_range(x, bounds, signed, symmetric)
