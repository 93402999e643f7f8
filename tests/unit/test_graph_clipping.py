"""Limits of clipping activations are the smallest and the largest value that they give."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from lrq_deploy.graph.clipping import Limits, clip_limits, narrower

pytestmark = pytest.mark.unit

aten = torch.ops.aten

GRID = torch.linspace(-20, 20, 4001)


def call(target: Any, *args: Any) -> fx.Node:
    graph = fx.Graph()
    return graph.call_function(target, (graph.placeholder("x"), *args))


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.relu.default, ()),
        (aten.relu6.default, ()),
        (aten.hardtanh.default, ()),
        (aten.hardtanh.default, (-2.0,)),
        (aten.hardtanh.default, (-2.0, 3)),
        (aten.clamp.default, (0.5,)),
        (aten.clamp.default, (None, 2.0)),
        (aten.clamp.default, (-3, 4)),
        (aten.clamp_min.default, (1.5,)),
        (aten.clamp_max.default, (1.5,)),
    ],
)
def test_nothing_that_a_clip_gives_lies_beyond(target: Any, args: tuple[Any, ...]) -> None:
    limits = clip_limits(call(target, *args))
    assert limits is not None
    given_back = target(GRID, *args)
    smallest, largest = float(given_back.min()), float(given_back.max())
    assert limits == (
        None if smallest == -20 else pytest.approx(smallest),
        None if largest == 20 else pytest.approx(largest),
    )


@pytest.mark.parametrize("target", [aten.sigmoid.default, aten.leaky_relu.default])
def test_other_operators_have_no_limits(target: Any) -> None:
    assert clip_limits(call(target)) is None


limits = st.tuples(st.none() | st.floats(-9, 0), st.none() | st.floats(0, 9))


@given(first=limits, second=limits)
def test_two_clips_are_one_between_the_narrower_limits(first: Limits, second: Limits) -> None:
    once, both = GRID, GRID
    for low, high in (first, second):
        both = torch.clamp(both, low, high) if (low, high) != (None, None) else both
    low, high = narrower(first, second)
    once = torch.clamp(once, low, high) if (low, high) != (None, None) else once
    assert torch.equal(once, both)
