"""Integer ranges of a target: no kernel saturates, and nothing of a range is left unused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.scheme import MAX_BITS, MIN_BITS, IntegerRange
from lrq_deploy.target import PORTABLE, TargetDescription

pytestmark = pytest.mark.unit


@given(
    bits=st.integers(MIN_BITS, MAX_BITS),
    weight_bits=st.integers(MIN_BITS, MAX_BITS),
    signed=st.booleans(),
    symmetric=st.booleans(),
)
def test_pairs_of_products_never_saturate(
    bits: int, weight_bits: int, signed: bool, symmetric: bool
) -> None:
    act = PORTABLE.act_range(bits, signed, symmetric)
    weight = PORTABLE.weight_range(weight_bits, act)
    largest = max(-weight.qmin, weight.qmax)
    assert (act.qmax - act.qmin) * 2 * largest <= 2**15 - 1
    assert act.levels <= 2**bits
    assert weight.levels <= 2**weight_bits
    assert weight.qmin < 0 < weight.qmax
    assert (act.qmin < 0) == (signed and symmetric)


def test_ranges_use_what_the_limits_leave() -> None:
    act = PORTABLE.act_range(8, signed=False, symmetric=True)
    assert (act.qmin, act.qmax) == (0, 127)
    assert PORTABLE.weight_range(8, act).qmax == 127
    wide = PORTABLE.act_range(8, signed=True, symmetric=False)
    assert (wide.qmin, wide.qmax) == (0, 255)
    assert PORTABLE.weight_range(8, wide).qmax == 64
    assert PORTABLE.weight_range(4, wide) == PORTABLE.weight_range(4, act) == IntegerRange(-8, 7)
    loose = TargetDescription("vnni", carrier_qmax=255, pair_sum_limit=2**31 - 1)
    assert loose.act_range(8, signed=False, symmetric=True).qmax == 255
    assert loose.weight_range(8, wide).qmin == -127
