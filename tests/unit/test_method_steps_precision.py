"""bfloat16 is used where the device multiplies it, and what ships is never computed with it."""

import pytest
import torch
from torch import Tensor, nn

from lrq_deploy.inner_product import inner_product
from lrq_deploy.method.fitting.squared_error import squared_error
from lrq_deploy.method.steps import precision
from lrq_deploy.method.steps.precision import multiplies_bfloat16, reduced_precision

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return x.to(dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_multiplies_bfloat16_by_its_features(
    monkeypatch: pytest.MonkeyPatch, feature: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: True})
    assert multiplies_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {feature: False, "avx2": True})
    assert not multiplies_bfloat16(CPU)


def test_cuda_stays_in_tf32() -> None:
    assert not multiplies_bfloat16(torch.device("cuda"))


@pytest.mark.parametrize(("wanted", "able"), [(True, True), (True, False), (False, True)])
def test_only_where_wanted_and_able(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, able: bool
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: able)
    layer = nn.Linear(8, 4)
    with reduced_precision(CPU, wanted):
        result = layer(torch.ones(2, 8))
    assert result.dtype == (torch.bfloat16 if wanted and able else torch.float32)


def test_no_weight_of_an_earlier_step_is_used_inside_of_another_autocast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    layer, results = nn.Linear(8, 4, bias=False), []
    with torch.autocast("cpu", enabled=False):
        for _ in range(2):
            with reduced_precision(CPU, True):
                results.append(layer(torch.ones(2, 8)))
            layer.weight.data *= 2
    assert torch.equal(results[1], 2 * results[0])


@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (3, 5, 7, 1), (640,), (7, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inner_products_are_summed_in_float32(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    b = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if len(shape) == 4:
        a = a.contiguous(memory_format=torch.channels_last)
    found = inner_product(a, b)
    assert found.dtype == torch.float32
    wanted = (a.double() * b.double()).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5 if a.numel() % 64 else 2e-3)


def test_a_long_inner_product_of_bfloat16_keeps_more_digits_than_bfloat16() -> None:
    ones = torch.ones(2**16 + 2**14, dtype=torch.bfloat16)
    ones[::64] = 1.5
    assert float(inner_product(ones, ones)) == pytest.approx(
        float(ones.double() @ ones.double()), 1e-3
    )


def test_the_gradient_of_a_squared_error_lies_as_the_map_does() -> None:
    mine, theirs = channels_last(2, 8, 4, 4).requires_grad_(), channels_last(2, 8, 4, 4) * 2
    wanted = (mine - theirs).square().sum()
    (expected,) = torch.autograd.grad(wanted, mine)
    loss = squared_error(mine, theirs)
    (grad,) = torch.autograd.grad(loss, mine)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()))
    torch.testing.assert_close(grad, expected)
    assert grad.is_contiguous(memory_format=torch.channels_last)
