"""How sizes compare, and widths of the same size."""

import pytest

from lrq_deploy.cli.job.sizes import size_change, wider_in_same_room

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (700, 100, "7.0 x smaller"),
        (5, 5, "1.0 x smaller"),
        (100, 250, "2.5 x larger"),
        (100, 0, "100.0 x smaller"),
    ],
)
def test_change(before: int, after: int, said: str) -> None:
    assert size_change(before, after) == said


def test_the_widest_weights_of_the_same_room() -> None:
    wider = [wider_in_same_room(bits) for bits in range(2, 9)]
    assert wider == [None, 4, None, 8, 8, 8, None]
