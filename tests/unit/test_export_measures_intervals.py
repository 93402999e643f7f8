"""Intervals: against the values that they were published with, and against chance itself."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.export.measures.intervals import (
    CONFIDENCE,
    images_to_decide,
    paired_drop_interval,
    share_interval,
)

pytestmark = pytest.mark.unit

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(1.0, 10, 0.7225, 1.0), (0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634)],
)
def test_a_share_has_the_ends_that_wilson_gives(
    share: float, count: int, low: float, high: float
) -> None:
    assert share_interval(share, count) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_lies_within_its_interval(hits_of: tuple[int, int]) -> None:
    hits, count = hits_of
    low, high = share_interval(hits / count, count)
    assert 0 <= low <= hits / count <= high <= 1
    mirrored = share_interval(1 - hits / count, count)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 10**5))
def test_a_drop_turns_with_its_sign(lost: int, gained: int, same: int) -> None:
    count = lost + gained + same + 1
    low, high = paired_drop_interval(lost, gained, count)
    assert -1 <= low < high <= 1
    turned = paired_drop_interval(gained, lost, count)
    assert turned == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(("drop", "changed", "count"), [(0.0, 0.05, 400), (0.02, 0.06, 1000)])
def test_the_true_drop_is_inside_as_often_as_is_said(
    drop: float, changed: float, count: int
) -> None:
    chance = np.random.default_rng(0)
    shares = [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]
    drawn = chance.multinomial(count, shares, size=4000)
    found = [
        paired_drop_interval(int(lost), int(gained), count)
        for lost, gained in zip(drawn[:, 0], drawn[:, 1], strict=True)
    ]
    held = [low <= drop <= high for low, high in found]
    assert np.mean(held) == pytest.approx(CONFIDENCE, abs=0.015)


def test_so_many_images_are_wanted_that_the_limit_falls_outside() -> None:
    share, limit = 0.955, 0.95
    needed = images_to_decide(partial(share_interval, share), limit, 500)
    assert needed is not None
    assert needed > 500
    assert share_interval(share, needed)[0] == pytest.approx(limit, abs=3e-4)
    assert math.remainder(needed, 10 ** (len(str(needed)) - 2)) == 0


@pytest.mark.parametrize("limit", [0.9, 1.0, 0.955])
def test_nothing_is_wanted_where_it_is_decided_or_cannot_be(limit: float) -> None:
    assert images_to_decide(partial(share_interval, 0.955), limit, 3000) is None


@pytest.mark.parametrize("count", range(20, 71, 10))
@pytest.mark.parametrize("share", [1.0, 0.99, 0.98, 0.9, 0.85])
def test_the_number_for_a_share_is_the_first_that_decides(share: float, count: int) -> None:
    limit = 0.95
    needed = images_to_decide(partial(share_interval, share), limit, count)
    low, high = share_interval(share, count)
    if not low < limit < high:
        assert needed is None
        return
    assert needed is not None
    # Where Wilson's interval ends at the limit, E. B. Wilson's equation solved for the count.
    first = Z**2 * limit * (1 - limit) / (share - limit) ** 2
    step = 10 ** (len(str(needed)) - 2)
    assert first <= needed < first + 1 + step
    low, high = share_interval(share, needed)
    assert not low < limit < high
    low, high = share_interval(share, needed - 1 - step)
    assert low < limit < high


@pytest.mark.parametrize(
    ("lost", "gained", "count", "limit"),
    [(0, 0, 50, 0.02), (1, 0, 100, 0.02), (0, 2, 60, 0.02), (5, 3, 300, 0.02), (5, 1, 90, 0.02)],
)
def test_the_number_for_a_drop_is_the_first_that_decides(
    lost: int, gained: int, count: int, limit: float
) -> None:
    def interval(images: int) -> tuple[float, float]:
        return paired_drop_interval(lost * images / count, gained * images / count, images)

    needed = images_to_decide(interval, limit, count)
    assert needed is not None
    assert needed > count
    low, high = interval(needed)
    assert not low < limit < high
    low, high = interval(needed - 1 - 10 ** (len(str(needed)) - 2))
    assert low < limit < high
