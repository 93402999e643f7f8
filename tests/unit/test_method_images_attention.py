"""Large-kernel attention: the fast form is the plain dilated convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lrq_deploy.method.images.attention import (
    AttentionBlock,
    LargeKernelAttention,
    attention_geometry,
)

pytestmark = pytest.mark.unit


@settings(max_examples=25)
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    geometry=st.sampled_from([(21, 3), (13, 2), (5, 1)]),
)
def test_any_size_equals_a_dilated_convolution(
    height: int, width: int, geometry: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    attention = LargeKernelAttention(4, *geometry)
    dilation = geometry[1]
    x = torch.randn(2, 4, height, width)
    near = attention.local(x)
    far = F.conv2d(
        near,
        attention.distant.weight,
        attention.distant.bias,
        padding=attention.distant.kernel_size[0] // 2 * dilation,
        dilation=dilation,
        groups=4,
    )
    torch.testing.assert_close(attention(x), x * attention.mix(far), rtol=1e-4, atol=1e-5)


def test_the_geometry_is_the_published_one_where_it_fits() -> None:
    assert attention_geometry(32, 16) == (21, 3)
    assert attention_geometry(15, 64)[1] < 3
    for side in (2, 4, 8, 12, 16, 28):
        kernel, dilation = attention_geometry(side, side)
        assert (kernel - 1) // 2 <= max(side, 2)
        assert dilation >= 1
    published = LargeKernelAttention(4, 21, 3)
    assert published.local.kernel_size == (5, 5)
    assert published.distant.kernel_size == (7, 7)


def test_a_block_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    block = AttentionBlock(4, 16, 16)
    x = torch.randn(4, 4, 16, 16)
    y = block(x)
    assert y.shape == x.shape
    assert 0 < float((y - x).detach().norm() / x.norm()) < 0.2
