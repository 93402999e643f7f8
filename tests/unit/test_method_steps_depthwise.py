"""Depthwise convolutions of small maps: torch's function and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrq_deploy.method.steps.depthwise import MOST_PIXELS, depthwise

pytestmark = pytest.mark.unit


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 5, 7]),
    st.booleans(),
    st.integers(0, 999),
)
@settings(max_examples=40)
def test_it_is_torchs_convolution(
    height: int, width: int, side: int, with_bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 4, height, width, requires_grad=True)
    weight = torch.randn(4, 1, side, side, requires_grad=True)
    bias = torch.randn(4, requires_grad=True) if with_bias else None
    learned = (x, weight) if bias is None else (x, weight, bias)
    expected = F.conv2d(x, weight, bias, padding=side // 2, groups=4)
    found = depthwise(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, learned, gradient),
        torch.autograd.grad(expected, learned, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_large_maps_are_left_to_torch() -> None:
    x = torch.randn(1, 2, MOST_PIXELS, 2, requires_grad=True)
    weight = torch.randn(2, 1, 3, 3)
    assert type(depthwise(x, weight, None).grad_fn).__name__ == "ConvolutionBackward0"
    small = depthwise(x[:, :, :8, :2], weight, None)
    assert type(small.grad_fn).__name__ == "_SmallDepthwiseBackward"
