"""Fake quantization against the published formulas and against finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrq_deploy.student.fake_quant import fake_quantize_per_channel, fake_quantize_per_tensor
from lrq_deploy.student.operators import dequantize_weight, quantize_dequantize

pytestmark = pytest.mark.unit

values = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=24)
ranges = st.sampled_from(
    [(-8, 7, 0), (0, 15, 0), (0, 15, 5), (0, 127, 0), (-128, 127, 0), (-2, 1, 0)]
)
scales = st.floats(0.015625, 0.5, width=32)


def away_from_ties(x: Tensor, scale: float) -> Tensor:
    """Drop what rounds to either side within float32's error."""
    steps = x.double() / scale
    return x[((steps - steps.floor()) - 0.5).abs() > 1e-3]


@given(numbers=values, scale=scales, bounds=ranges)
def test_values_and_gradients_are_those_of_learned_step_size_quantization(
    numbers: list[float], scale: float, bounds: tuple[int, int, int]
) -> None:
    qmin, qmax, zero_point = bounds
    x = away_from_ties(torch.tensor(numbers), scale).requires_grad_()
    step = torch.tensor(scale, requires_grad=True)
    result = fake_quantize_per_tensor(x, step, zero_point, qmin, qmax)
    low, high = qmin - zero_point, qmax - zero_point
    steps = x.detach() / scale
    expected = steps.round().clamp(low, high)
    torch.testing.assert_close(result.detach(), expected * scale)
    result.sum().backward()
    clear = (steps - low).abs().gt(0.51) & (steps - high).abs().gt(0.51)
    inside = (steps > low) & (steps < high)
    assert x.grad is not None
    assert step.grad is not None
    assert torch.equal(x.grad[clear], inside[clear].float())
    # Esser et al. eq. 3: the rounding error inside, the bound outside; either at the border.
    per_element = torch.where(inside, expected - steps, expected)
    slack = float((~clear).sum()) * 1.1 * (max(abs(low), abs(high)) + 1)
    assert abs(float(step.grad - per_element.sum())) <= slack + 1e-3 * len(numbers)


@settings(max_examples=30)
@given(scale=st.floats(0.03125, 0.25, width=32), value=st.floats(0.25, 6.0, width=32))
def test_the_slope_in_the_scale_is_the_bound_where_values_clip(scale: float, value: float) -> None:
    step = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([value + 7 * scale])
    result = fake_quantize_per_tensor(x, step.float(), 0, -8, 7)
    result.sum().backward()
    assert step.grad is not None
    nudge = scale * 1e-2
    shifted = [
        fake_quantize_per_tensor(x, torch.tensor([s]), 0, -8, 7) for s in (scale + nudge, scale)
    ]
    if value > 8 * nudge:
        numerical = float((shifted[0] - shifted[1]).sum()) / nudge
        assert numerical == pytest.approx(7.0, rel=1e-3)
        assert float(step.grad) == pytest.approx(7.0)


def test_channels_have_their_own_scales_and_gradients() -> None:
    random = torch.Generator().manual_seed(0)
    for axis in (0, 1):
        x = torch.randn(3, 3, 2, 2, generator=random, requires_grad=True)
        scale = torch.tensor([0.1, 0.2, 0.4], requires_grad=True)
        result = fake_quantize_per_channel(x, scale, axis, -8, 7)
        result.square().sum().backward()
        assert scale.grad is not None
        for channel, own in enumerate(scale.detach().tolist()):
            part = x.detach().select(axis, channel)
            step = torch.tensor(own, requires_grad=True)
            alone = fake_quantize_per_tensor(part, step, 0, -8, 7)
            torch.testing.assert_close(result.detach().select(axis, channel), alone.detach())
            alone.square().sum().backward()
            torch.testing.assert_close(scale.grad[channel], step.grad)


@given(numbers=values, scale=scales, bounds=ranges)
def test_the_shipped_operator_gives_the_same_numbers(
    numbers: list[float], scale: float, bounds: tuple[int, int, int]
) -> None:
    qmin, qmax, zero_point = bounds
    x = away_from_ties(torch.tensor(numbers), scale)
    trained = fake_quantize_per_tensor(x, torch.tensor(scale), zero_point, qmin, qmax)
    shipped = quantize_dequantize(x, scale, zero_point, qmin, qmax)
    assert torch.equal(trained, shipped)


def test_the_operators_are_known_to_the_tracer() -> None:
    x = torch.linspace(-1, 1, 9)
    torch.library.opcheck(quantize_dequantize, (x, 0.1, 3, 0, 15))
    q = torch.arange(-4, 4, dtype=torch.int8).reshape(2, 4)
    torch.library.opcheck(dequantize_weight, (q, torch.tensor([0.5, 2.0]), 0))
    assert dequantize_weight(q, torch.tensor([0.5, 2.0]), 0)[1, 3] == 6.0


@given(numbers=values, scale=scales, bounds=ranges)
def test_without_gradients_the_bits_are_those_of_the_shipped_operator(
    numbers: list[float], scale: float, bounds: tuple[int, int, int]
) -> None:
    qmin, qmax, zero_point = bounds
    # Ties included: multiples of half a step.
    x = torch.cat([torch.tensor(numbers), torch.arange(-40, 40) * (scale / 2)])
    with torch.no_grad():
        evaluated = fake_quantize_per_tensor(x, torch.tensor(scale), zero_point, qmin, qmax)
        weights = fake_quantize_per_channel(x[:, None], torch.tensor([scale]), 1, qmin, qmax)
    assert torch.equal(evaluated, quantize_dequantize(x, scale, zero_point, qmin, qmax))
    assert torch.equal(weights[:, 0], quantize_dequantize(x, scale, 0, qmin, qmax))


def test_gradients_lie_in_memory_as_the_tensor_does() -> None:
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    scale = torch.tensor(0.1, requires_grad=True)
    result = fake_quantize_per_tensor(x, scale, 0, 0, 15)
    # A pooling hands back a gradient that is not channels-last.
    in_order, of_scale = torch.autograd.grad(result, (x, scale), torch.ones(2, 8, 4, 4))
    assert in_order.is_contiguous(memory_format=torch.channels_last)
    (alone,) = torch.autograd.grad(
        fake_quantize_per_tensor(x, scale.detach(), 0, 0, 15), x, torch.ones(2, 8, 4, 4)
    )
    torch.testing.assert_close(alone, in_order)
    assert float(of_scale) != 0


def test_gradients_pass_up_to_half_a_step_beyond_the_outermost_integers() -> None:
    """What is rounded to 7 or to -8 is inside, and its scale learns from the rounding error."""
    steps = torch.tensor([-8.7, -8.3, -0.2, 7.3, 7.7])
    x = (steps * 0.25).requires_grad_()
    slopes = []
    for number, inside in enumerate([False, True, True, True, False]):
        scale = torch.tensor(0.25, requires_grad=True)
        result = fake_quantize_per_tensor(x[number], scale, 0, -8, 7)
        of_x, of_scale = torch.autograd.grad(result, (x, scale))
        assert float(of_x[number]) == inside
        slopes.append(float(of_scale))
    assert slopes == pytest.approx([-8, 0.3, 0.2, -0.3, 7], abs=1e-5)
