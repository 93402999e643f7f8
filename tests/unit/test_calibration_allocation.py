"""Widths within a number of bytes: against all combinations tried."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.calibration.allocation import Offer, allocate

pytestmark = pytest.mark.unit

LAYERS = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1)).map(
        lambda x: (Offer(4, x[0], x[1]), Offer(8, 2 * x[0], x[1] * x[2]))
    ),
    min_size=1,
    max_size=7,
)


@given(LAYERS, st.integers(0, 500))
def test_no_combination_that_fits_loses_less(layers: list[tuple[Offer, ...]], limit: int) -> None:
    fitting = [c for c in product(*layers) if sum(o.size_bytes for o in c) <= limit]
    bits = allocate(layers, limit)
    assert (bits is None) == (not fitting)
    if bits is not None:
        picked = [next(o for o in x if o.bits == b) for x, b in zip(layers, bits, strict=True)]
        assert sum(o.size_bytes for o in picked) <= limit
        best = min(sum(o.damage for o in c) for c in fitting)
        assert sum(o.damage for o in picked) == pytest.approx(best)


def test_hundreds_of_layers_are_quick_and_fill_the_room() -> None:
    layers = [(Offer(4, 1000 + i, 1.0 + i % 7), Offer(8, 2000 + 2 * i, 0.0)) for i in range(200)]
    limit = sum(1.5 * x[0].size_bytes for x in layers)
    bits = allocate(layers, int(limit))
    assert bits is not None
    used = sum(
        next(o for o in x if o.bits == b).size_bytes for x, b in zip(layers, bits, strict=True)
    )
    assert 0.98 * limit < used <= limit


def test_with_room_for_all_every_layer_gets_its_best_width() -> None:
    layers = [(Offer(4, 2**i, 2.0**i), Offer(8, 2 ** (i + 1), 0.0)) for i in range(16)]
    assert allocate(layers, 2**17) == (8,) * 16
    assert allocate(layers, 2**16 - 1) == (4,) * 16
