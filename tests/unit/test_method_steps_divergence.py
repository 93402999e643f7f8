"""The guard: the last good state comes back, the message names stage and terms."""

import copy

import pytest
import torch
from torch import nn

from lrq_deploy.errors import DivergenceError
from lrq_deploy.method.steps.divergence import DivergenceGuard

pytestmark = pytest.mark.unit


def moved(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_state_of_the_last_finite_check_is_kept(bad: float) -> None:
    module = nn.Linear(2, 2)
    guard = DivergenceGuard("student", module)
    moved(module, 7.0)
    guard.check(25, {"distillation": 1.0, "features": 0.0})
    good = copy.deepcopy(module.state_dict())
    moved(module, float("nan"))
    with pytest.raises(DivergenceError) as caught:
        guard.check(50, {"distillation": 1.5, "features": bad})
    assert "student" in caught.value.rule
    assert caught.value.received.startswith(f"distillation 1.5, features {bad:g} at step 50")
    for name, value in module.state_dict().items():
        assert torch.equal(value, good[name])
        assert torch.equal(caught.value.state[name], good[name])


def test_before_the_first_check_the_state_is_the_initial_one() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    guard = DivergenceGuard("generator", module)
    moved(module, 3.0)
    with pytest.raises(DivergenceError):
        guard.check(1, {"statistics": float("nan")})
    assert torch.equal(module.weight, before)


def test_an_infinite_weight_is_divergence_though_the_loss_is_finite() -> None:
    module = nn.Linear(2, 2)
    guard = DivergenceGuard("student", module)
    moved(module, float("inf"))
    with pytest.raises(DivergenceError, match="Inf in 1 tensor such as weight") as caught:
        guard.check(25, {"distillation": 0.5})
    # The guard does not know the options, so nothing is proposed that they may have already.
    assert "where the run has them not yet, --recipe fast or more bits (8 at" in caught.value.remedy
    assert caught.value.remedy.endswith("the last good state was kept")
    assert bool(module.weight.isfinite().all())
