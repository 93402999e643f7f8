"""What adds many reals, in numpy against torch in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from support.both_kinds import as_double, as_numpy

from lrq_deploy.export.parity.reference_sums import SUMS_OF_REALS

pytestmark = pytest.mark.unit

aten = torch.ops.aten
IMAGE = (2, 4, 6, 7)
ROW = torch.tensor([0.5, -2.0, 3.0, 1.0])
MASK = torch.tensor([[True, False, True, True, False, True]])
HIDDEN = torch.tensor([[True], [False], [True], [True], [False]]).expand(5, 6)
SUMMING: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.softmax.int, (1,), {}),
    (aten.matmul.default, (torch.linspace(-1, 1, 7),), {}),
    (aten._softmax.default, (1, False), {}),
    (aten.native_layer_norm.default, ([7], torch.linspace(-1, 2, 7), None, 1e-5), {}),
    (aten.native_group_norm.default, (ROW, ROW + 1, 2, 4, 42, 2, 1e-5), {}),
    (aten.layer_norm.default, ([7], torch.linspace(-1, 2, 7), torch.linspace(3, 0, 7)), {}),
    (aten.layer_norm.default, ([6, 7], None, None, 0.1), {}),
    (aten.group_norm.default, (2, ROW, ROW + 1), {}),
    (aten.group_norm.default, (1, None, None, 0.1), {}),
    (aten.instance_norm.default, (ROW, ROW, None, None, True, 0.1, 1e-5, False), {}),
    (aten.instance_norm.default, (None, ROW, ROW, ROW**2, False, 0.1, 1e-3, False), {}),
    (aten.rms_norm.default, ([7], torch.linspace(-1, 2, 7), 1e-3), {}),
    (aten.rms_norm.default, ([6, 7],), {}),
    (aten.linalg_vector_norm.default, (2, [1], True), {}),
    (aten.linalg_vector_norm.default, (3, [1, 2]), {}),
    (aten.linalg_vector_norm.default, (1, None), {}),
    (aten.linalg_vector_norm.default, (0, [-1]), {}),
    (aten.linalg_vector_norm.default, (float("inf"), [-1]), {}),
    (aten.linalg_vector_norm.default, (float("-inf"), [-1]), {}),
    (aten.upsample_bilinear2d.vec, ([9, 4], False, None), {}),
    (aten.upsample_bilinear2d.vec, ([9, 1], True, None), {}),
    (aten.upsample_bilinear2d.vec, (None, False, [1.6, 0.7]), {}),
    (aten.upsample_bicubic2d.vec, ([13, 5], False, None), {}),
    (aten.upsample_bicubic2d.vec, ([13, 5], True, None), {}),
    (aten.upsample_bicubic2d.vec, (None, False, [1.6, 0.7]), {}),
]


@pytest.mark.parametrize(("operator", "args", "kwargs"), SUMMING, ids=lambda v: str(v))
def test_sums_of_reals(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    x = 3 * torch.randn(IMAGE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = SUMS_OF_REALS[str(operator)](x.numpy(), *map(as_numpy, args), **kwargs)
    expected = operator(x, *map(as_double, args), **kwargs)
    if isinstance(found, list):
        (found,), expected = found, expected[0]
    torch.testing.assert_close(torch.from_numpy(np.asarray(found)), expected)


@pytest.mark.parametrize(
    ("heads", "args", "kwargs"),
    [
        (4, (), {}),
        (4, (MASK,), {}),
        (4, (HIDDEN,), {}),
        (4, (torch.linspace(-2, 2, 30).reshape(5, 6),), {"scale": 0.3}),
        (4, (None, 0.0, True), {}),
        (2, (), {"enable_gqa": True}),
    ],
)
def test_attention(heads: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (
        torch.randn(2, count, length, 8, generator=generator, dtype=torch.float64)
        for count, length in ((4, 5), (heads, 6), (heads, 6))
    )
    operator: Any = aten.scaled_dot_product_attention.default
    ours = SUMS_OF_REALS[str(operator)](
        query.numpy(), key.numpy(), value.numpy(), *map(as_numpy, args), **kwargs
    )
    theirs = operator(query, key, value, *map(as_double, args), **kwargs)
    torch.testing.assert_close(torch.from_numpy(ours), theirs)


def test_einsum() -> None:
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = SUMS_OF_REALS["aten.einsum.default"]("...i,ji->...j", [x.numpy(), x.numpy()])
    torch.testing.assert_close(torch.from_numpy(found), x @ x.T)
