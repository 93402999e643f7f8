"""Biases on the grid of an int32: the nearest multiple to the last bit, and a straight gradient."""

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lrq_deploy.student.bias_grid import INT32_MAX, snap_to_grid

pytestmark = pytest.mark.unit


@given(bias=st.floats(-9, 9, width=32), step=st.floats(2.0**-28, 2.0**-10, width=32))
@example(bias=0.1, step=3e-9)
def test_a_bias_is_the_nearest_multiple_however_many_steps_it_has(bias: float, step: float) -> None:
    exact = torch.tensor(bias).item()
    steps = round(Fraction(exact) / Fraction(torch.tensor(step).item()))
    steps = min(max(steps, -int(INT32_MAX)), int(INT32_MAX))
    expected = float(steps * Fraction(torch.tensor(step).item()))
    snapped = snap_to_grid(torch.tensor(bias), torch.tensor(step))
    assert snapped.dtype == torch.float32
    assert snapped == torch.tensor(expected, dtype=torch.float64).float()


def test_a_bias_never_leaves_32_bits() -> None:
    step = torch.tensor(1e-9)
    snapped = snap_to_grid(torch.tensor([5.0, -5.0]), step)
    assert float((snapped.double() / step.double()).abs().max()) <= 2**31


def test_channels_have_their_own_steps_and_the_gradient_passes() -> None:
    x = torch.tensor([0.26, 0.26, -0.9], requires_grad=True)
    snapped = snap_to_grid(x, torch.tensor([0.5, 0.25, 0.2]))
    torch.testing.assert_close(snapped.detach(), torch.tensor([0.5, 0.25, -0.8]))
    (snapped * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 3.0]
