"""``benchmarks/plain_loop.py``: the loop that ours is compared with."""

import copy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.benchmark_scripts import benchmark_script
from support.small_networks import Residual
from torch import Tensor

pytestmark = pytest.mark.unit


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With epochs of two steps, of which the first epoch observes."""
    script = benchmark_script("plain_loop", monkeypatch)
    for name, value in {"EPOCH": 2, "OBSERVING": 1, "DECAYS": (2, 3)}.items():
        monkeypatch.setattr(script, name, value)
    return script


def weights_and_ranges(student: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Copies of what is trained, and of what is observed."""
    state = copy.deepcopy(student.state_dict())
    ranges = [v for k, v in state.items() if "of_input" in k]
    return [v for k, v in state.items() if k.endswith("weight")], ranges


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_values_are_rounded_to_sixteen_steps(script: ModuleType) -> None:
    quantizer = script.PlainQuantizer(rows=False)
    x = torch.linspace(-1, 2, 301, requires_grad=True)
    rounded = quantizer(x)
    assert len(rounded.detach().unique()) == 16
    assert (rounded - x).abs().max() <= 0.1 + 1e-6
    (gradient,) = torch.autograd.grad(rounded.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))
    quantizer.observing = False
    assert quantizer(10 * x).detach().max() == pytest.approx(2)


def test_each_row_of_a_weight_has_its_range(script: ModuleType) -> None:
    weight = torch.stack([torch.linspace(0, 1, 64), torch.linspace(-100, 50, 64)])
    rounded = script.PlainQuantizer(rows=True)(weight)
    assert (rounded - weight).abs().amax(1)[0] <= 1 / 30 + 1e-6
    assert rounded.amin(1).tolist() == pytest.approx([0, -100])


def test_the_first_epochs_train_the_generator_alone(script: ModuleType) -> None:
    torch.manual_seed(0)
    loop = script.PlainLoop(Residual(classes=10), 4)
    weights, ranges = weights_and_ranges(loop.student)
    for _ in range(2):
        loop.advance()
    observed = weights_and_ranges(loop.student)
    assert same(weights, observed[0])
    assert not same(ranges, observed[1])
    loop.advance()
    trained = weights_and_ranges(loop.student)
    assert not same(weights, trained[0])
    assert same(observed[1], trained[1])
    rates = []
    for _ in range(5):
        rates.append(loop.fit.param_groups[0]["lr"])
        loop.advance()
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6])


def test_the_image_and_what_is_pooled_stay_in_float(script: ModuleType) -> None:
    loop = script.PlainLoop(Residual(classes=10), 4)
    layers = [m for m in loop.student.modules() if isinstance(m, script.PlainLayer)]
    assert len(layers) > 3
    rounded = [isinstance(m.of_input, script.PlainQuantizer) for m in layers]
    assert rounded == [False, *[True] * (len(layers) - 2), False]


def test_a_teacher_that_is_asked_answers_as_the_generator_step_did(script: ModuleType) -> None:
    network = Residual(classes=10)
    students = []
    for asking in (False, True):
        torch.manual_seed(0)
        loop = script.PlainLoop(network, 4)
        loop.generator_step()
        (loop.asking_student_step if asking else loop.student_step)()
        students.append(loop.student.state_dict())
    left, right = (list(state.values()) for state in students)
    assert same(left, right)
    assert not torch.equal(left[0], network.state_dict()[next(iter(network.state_dict()))])


def test_the_student_loss_is_the_published_one(script: ModuleType) -> None:
    torch.manual_seed(0)
    loop = script.PlainLoop(Residual(classes=10), 4)
    loop.wanted = torch.randn(4, 10)
    given = loop.student(loop.images).detach().double()
    soft, wanted = ((x / 20).softmax(1) for x in (given, loop.wanted.double()))
    apart = (wanted * (wanted.log() - soft.log())).mean()
    right = -given.softmax(1).log()[torch.arange(4), loop.labels].mean()
    assert loop.student_loss().item() == pytest.approx(float(400 * apart + right), rel=1e-5)


def test_a_sitting_goes_on_where_the_last_one_stopped(script: ModuleType, tmp_path: Path) -> None:
    network = Residual(classes=10)
    torch.manual_seed(0)
    whole = script.PlainLoop(network, 4)
    for _ in range(5):
        whole.advance()
    after_five = torch.get_rng_state()
    torch.manual_seed(0)
    first = script.PlainLoop(network, 4)
    for _ in range(3):
        first.advance()
    torch.save(first.state(), tmp_path / "state.pt")
    torch.manual_seed(7)
    second = script.PlainLoop(network, 4)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        second.advance()
    assert torch.equal(torch.get_rng_state(), after_five)
    assert second.step == whole.step == 5
    for name in ("student", "generator"):
        left, right = (getattr(loop, name).state_dict() for loop in (whole, second))
        assert same(list(left.values()), list(right.values()))
