"""How far a step moves weights and biases: by their width and their own size."""

import copy
from dataclasses import replace

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import Residual, calibrated, images, placed
from torch import Tensor, fx, nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MethodSwitches
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import QuantizedLayer, float_twin

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(student_steps=2, batch_size=16)


def trained(start: fx.GraphModule, settings: RecipeSettings) -> fx.GraphModule:
    student = copy.deepcopy(start)
    switches = MethodSwitches(margin="off")
    twin = float_twin(student)
    about = (student, twin, images(64), settings, switches)
    run_stage(StudentTraining(*about, "multiclass", ON_CPU), ON_CPU)
    return student


def layers(student: fx.GraphModule) -> list[QuantizedLayer]:
    return [module for module in student.modules() if isinstance(module, QuantizedLayer)]


def test_the_width_of_the_weights_decides_how_far_they_move() -> None:
    """Adam's first step is the learning rate itself, whatever the gradient."""
    one_step = replace(SETTINGS, student_steps=1)
    moved: dict[str, dict[int, float]] = {"weight": {}, "bias": {}}
    for bits in (2, 3, 4, 8):
        start = calibrated(Residual(), Scheme(bits, 8, None), count=16)
        student = trained(start, one_step)
        for name, largest in moved.items():
            largest[bits] = max(
                (getattr(after, name) - getattr(before, name)).detach().abs().max().item()
                for after, before in zip(layers(student), layers(start), strict=True)
            )
    for name, factors in {"weight": {2: 16, 3: 4, 8: 1 / 16}, "bias": {2: 1, 8: 1 / 16}}.items():
        for bits, factor in factors.items():
            assert moved[name][bits] == pytest.approx(moved[name][4] * factor, rel=0.02)


@pytest.mark.parametrize("factor", [1e-3, 1e-5, 1e3])
def test_weights_of_any_size_move_as_far(factor: float) -> None:
    """A layer times a factor and the next one divided by it are the same function."""
    moved = []
    for by in (1.0, factor):
        start = two_layers(by)
        student = trained(start, replace(SETTINGS, student_steps=4))
        pairs = zip(layers(start), layers(student), strict=True)
        moved.append(torch.stack([_step(before, after) for before, after in pairs]))
    torch.testing.assert_close(moved[1], moved[0], rtol=0.1, atol=0)


def two_layers(factor: float) -> fx.GraphModule:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 5)
    )
    student = placed(network, Scheme(4, 4, 8))
    first, second, _ = layers(student)
    with torch.no_grad():
        for values in (first.weight, first.bias):
            if values is not None:
                values.mul_(factor)
        second.weight.div_(factor)
    calibrate(student, images(16), symmetric=True, seed=0)
    return student


def _step(before: QuantizedLayer, after: QuantizedLayer) -> Tensor:
    change = (after.weight - before.weight).detach().square().mean()
    return (change / before.weight.detach().square().mean()).sqrt()
