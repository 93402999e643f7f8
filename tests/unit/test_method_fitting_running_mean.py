"""The running mean of parameters is the mean of all that were taken in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrq_deploy.method.fitting.running_mean import RunningMean

pytestmark = pytest.mark.unit

steps = st.lists(
    st.lists(st.floats(-9, 9, width=32), min_size=7, max_size=7), min_size=1, max_size=12
)


def network() -> nn.Sequential:
    """Seven parameters, one tensor of them used twice, and buffers."""
    layer = nn.Linear(2, 1)
    return nn.Sequential(layer, nn.BatchNorm1d(2), layer)


def put(module: nn.Module, values: list[float]) -> None:
    rest = torch.tensor(values)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(rest[: parameter.numel()].view_as(parameter))
            rest = rest[parameter.numel() :]


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@settings(max_examples=40)
@given(seen=steps)
def test_it_is_the_mean_of_what_was_taken_in(seen: list[list[float]]) -> None:
    module = network()
    mean = RunningMean(module)
    for number, values in enumerate(seen, start=1):
        put(module, values)
        mean.add(number)
        assert flat(module).tolist() == values
    mean.give()
    expected = torch.tensor(seen, dtype=torch.float64).mean(0).float()
    torch.testing.assert_close(flat(module), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("before", [3e38, float("inf")])
def test_what_the_parameters_were_before_the_first_does_not_count(before: float) -> None:
    module = network()
    put(module, [before] * 7)
    mean = RunningMean(module)
    put(module, [0.1] * 7)
    mean.add(1)
    mean.give()
    assert torch.equal(flat(module), torch.full((7,), 0.1))


def test_buffers_stay() -> None:
    module = network()
    mean = RunningMean(module)
    module[1].running_mean.fill_(5.0)  # type: ignore[operator]
    mean.add(1)
    mean.give()
    assert module[1].running_mean.tolist() == [5.0, 5.0]  # type: ignore[operator]
    assert len(mean.values) == 4
