"""Nothing of a run on CUDA is left on the CPU by mistake, as far as shapes can tell."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.fake_cuda import CUDA, fake_cuda
from support.small_networks import ALL, SHAPE, calibrated
from support.stages import SETTINGS, STAGES, _start, tapped_on
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from lrq_deploy.graph.on_device import on_device
from lrq_deploy.method.steps.back_off import BackOff
from lrq_deploy.method.steps.precision import reduced_precision
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True, scope="module")
def _real() -> None:
    """Networks are captured and calibrated before any tensor is without values."""
    tapped_on(torch.device("cpu"))
    _start()


@pytest.mark.parametrize(("pieces", "bfloat16"), [(1, True), (2, True), (1, False)])
@pytest.mark.parametrize("name", STAGES)
def test_steps_stay_on_the_device(name: str, pieces: int, bfloat16: bool) -> None:
    with fake_cuda():
        stage = STAGES[name](CUDA, replace(SETTINGS, reduced_precision=bfloat16))
        stage.pieces.count = pieces
        steps = BackOff(stage, lambda message: None)
        for _ in range(stage.steps):
            steps.step()
        assert stage.steps_done == stage.steps
        assert {tensor.device for tensor in stage.watched.state_dict().values()} == {CUDA}


@pytest.mark.parametrize("name", ALL)
def test_students_stay_on_the_device(name: str) -> None:
    student = calibrated(ALL[name](), Scheme(4, 4, 8))
    with fake_cuda():
        logits: Tensor = on_device(student, CUDA)(torch.empty(4, *SHAPE, device=CUDA))
        assert logits.device == CUDA


class Makes(nn.Module):
    """Makes tensors while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu()
        y = y * torch.linspace(0.5, 1.0, y.shape[3], device=x.device)
        y = y + torch.zeros(x.shape[0], 8, 1, 1, device=x.device)
        y = y + torch.zeros_like(y) + torch.arange(8.0, device=x.device).view(8, 1, 1) / 8
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def test_what_a_network_makes_is_on_the_device_and_comes_back() -> None:
    student = calibrated(Makes(), Scheme(4, 4, 8))
    with fake_cuda():
        moved = on_device(copy.deepcopy(student), CUDA)
        assert moved(torch.empty(4, *SHAPE, device=CUDA)).device == CUDA
        assert moved.code != student.code
        assert on_device(moved, torch.device("cpu")).code == student.code


def test_the_device_multiplies_bfloat16() -> None:
    with fake_cuda(), reduced_precision(CUDA, True):
        image, weight = torch.empty(1, 3, 4, 4, device=CUDA), torch.empty(5, 3, 1, 1, device=CUDA)
        assert F.conv2d(image, weight).dtype == torch.bfloat16


def test_two_devices_are_noticed() -> None:
    with fake_cuda(), pytest.raises(FakeTensorDeviceMismatchError):
        torch.ones(3, device=CUDA) + torch.ones(3)
