"""A layer's specification computes what the ATen call does, whatever it leaves out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from lrq_deploy.graph.specification import layer_spec

pytestmark = pytest.mark.unit

aten = torch.ops.aten

MAPS = torch.randn(2, 4, 11, 13, generator=torch.Generator().manual_seed(0))


def sides(least: int, most: int) -> st.SearchStrategy[list[int]]:
    """One number for both sides, or one of each."""
    return st.lists(st.integers(least, most), min_size=1, max_size=2)


def called(target: Any, args: tuple[Any, ...]) -> fx.Node:
    graph = fx.Graph()
    names = [graph.placeholder(name) for name in ("x", "weight", "bias")]
    return graph.call_function(target, (*names, *args))


def weights(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=random), torch.randn(4, generator=random)


@settings(max_examples=50)
@given(
    args=st.tuples(sides(1, 3), sides(0, 3), sides(1, 3), st.sampled_from([1, 2, 4])),
    stated=st.integers(0, 4),
)
def test_convolutions(args: tuple[Any, ...], stated: int) -> None:
    args = args[:stated]
    groups = args[3] if stated == 4 else 1
    weight, bias = weights(4, 4 // groups, 3, 2)
    spec = layer_spec(called(aten.conv2d.default, args))
    assert (spec.kind, spec.channel_axis) == ("conv2d", 0)
    expected = aten.conv2d.default(MAPS, weight, bias, *args)
    assert torch.equal(spec.apply(MAPS, weight, bias), expected)


@settings(max_examples=50)
@given(
    args=st.tuples(sides(2, 3), sides(0, 2), sides(0, 1), st.sampled_from([1, 2, 4]), sides(1, 2)),
    stated=st.integers(0, 5),
)
def test_transposed_convolutions(args: tuple[Any, ...], stated: int) -> None:
    args = args[:stated]
    groups = args[3] if stated > 3 else 1
    weight, bias = weights(4, 4 // groups, 3, 2)
    spec = layer_spec(called(aten.conv_transpose2d.input, args))
    assert (spec.kind, spec.channel_axis) == ("conv_transpose2d", 1)
    expected = aten.conv_transpose2d.input(MAPS, weight, bias, *args)
    assert torch.equal(spec.apply(MAPS, weight, bias), expected)


def test_linear_layers() -> None:
    weight, bias = weights(4, 13)
    spec = layer_spec(called(aten.linear.default, ()))
    assert (spec.kind, spec.channel_axis) == ("linear", 0)
    assert torch.equal(spec.apply(MAPS, weight, bias), aten.linear.default(MAPS, weight, bias))
