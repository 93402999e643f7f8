"""Roots of 0 do not end training."""

import copy

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import SHAPE, calibrated, conv_bn, graph_of, images
from support.stages import SETTINGS
from torch import Tensor, fx, nn

from lrq_deploy.graph.finite_gradients import finite_gradients
from lrq_deploy.graph.statistics import tap_batch_norms
from lrq_deploy.method.fitting.reconstruction import BlockReconstruction
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MethodSwitches
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import float_twin

pytestmark = pytest.mark.unit


class PowerMean(nn.Module):
    """Roots of means of squares, one of them of zeros; as a gate, and as a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 8), conv_bn(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        y = y + z * self._power(z).sqrt()
        y = self._power(y).pow(1 / 3).flatten(1)
        logits: Tensor = self.head(y)
        return logits

    def _power(self, x: Tensor) -> Tensor:
        """Mean square per channel, 0 of the first."""
        some = torch.tensor([0.0] + 7 * [1.0]).view(8, 1, 1)
        return (x * some).pow(2).mean((2, 3), keepdim=True)


def gradient(graph: fx.GraphModule, image: Tensor) -> Tensor:
    image = image.clone().requires_grad_()
    logits, *_ = graph(image)
    logits.sum().backward()
    assert image.grad is not None
    return image.grad


def test_values_stay_and_gradients_become_finite() -> None:
    plain = graph_of(PowerMean())
    guarded = finite_gradients(copy.deepcopy(plain))
    batch = images()
    assert torch.equal(plain(batch), guarded(batch))
    assert gradient(plain, batch).isnan().any()
    found = gradient(guarded, batch)
    assert found.isfinite().all()
    assert found.count_nonzero() > 0


def test_the_teacher_of_images_is_guarded() -> None:
    tapped = tap_batch_norms(graph_of(PowerMean()))
    image = images().requires_grad_()
    tapped.graph(image)[0].sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_the_student_is_guarded() -> None:
    student = calibrated(PowerMean(), Scheme(4, 4, 8))
    twin, switches = float_twin(student), MethodSwitches()
    stage = StudentTraining(student, twin, images(32), SETTINGS, switches, "multiclass", ON_CPU)
    terms = run_stage(stage, ON_CPU)
    assert terms["distillation"] > 0


def test_blocks_are_guarded() -> None:
    student = calibrated(PowerMean(), Scheme(4, 4, 8))
    stage = BlockReconstruction(student, float_twin(student), images(32), SETTINGS, ON_CPU)
    run_stage(stage, ON_CPU)
    assert stage.steps_done == stage.steps


def test_other_powers_are_left_alone() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.pow(2) + x.pow(1)).mean((2, 3))

    graph = graph_of(Square(), SHAPE)
    before = graph.code
    assert finite_gradients(graph).code == before
