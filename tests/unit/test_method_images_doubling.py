"""A convolution of a doubled map without doubling: the same function and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrq_deploy.method.images.doubling import convolve_doubled

pytestmark = pytest.mark.unit


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 999))
@settings(max_examples=25)
def test_it_is_the_convolution_of_the_doubled_map(
    height: int, width: int, outputs: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, height, width, requires_grad=True)
    weight = torch.randn(outputs, 3, 3, 3, requires_grad=True)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    found = convolve_doubled(x, weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_maps_are_channels_last() -> None:
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    found = convolve_doubled(x, torch.randn(6, 8, 3, 3))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_in_autocast_the_products_are_bfloat16_and_the_sums_of_weights_are_not() -> None:
    x, weight = torch.randn(2, 8, 4, 4), torch.randn(6, 8, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = convolve_doubled(x, weight)
    assert found.dtype == torch.bfloat16
    expected = convolve_doubled(x, weight)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-2
