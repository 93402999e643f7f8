"""``benchmarks/plain_accuracy.py``: the plain loop trained to its end, in a cheaper order."""

import copy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.benchmark_scripts import benchmark_script
from support.image_files import write_png
from support.small_networks import Residual

from lrq_deploy.images import read_image_folder
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("plain_accuracy", monkeypatch)


def test_the_quick_loop_does_the_steps_of_the_plain_one(script: ModuleType) -> None:
    network = Residual(classes=10)
    loops = []
    for kind, options in ((script.PlainLoop, {}), (script.QuickLoop, {"precision": torch.float32})):
        torch.manual_seed(0)
        loop = kind(network, 8, **options)
        # Adam's first steps are signs of gradients, and some of those are only rounding.
        loop.make = torch.optim.SGD(loop.generator.parameters(), 0.1)
        loop.fit.param_groups[0]["lr"] = 0.01
        loops.append(loop)
    plain, quick = loops
    for loop in loops:
        torch.manual_seed(1)
        loop.generator_step()
        loop.student(loop.images)
        loop.observe(False)
        loop.student_step()
        loop.generator_step()
        loop.student_step()
    assert torch.allclose(plain.images, quick.images, atol=1e-4)
    for name in ("student", "generator"):
        left, right = (getattr(loop, name).state_dict() for loop in loops)
        assert list(left) == list(right)
        for key, value in left.items():
            assert torch.allclose(value, right[key], rtol=1e-4, atol=1e-5), key


def test_answers_are_counted_beside_those_of_the_float_network(
    script: ModuleType, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    loop = script.PlainLoop(Residual(classes=10), 4)
    for index in range(10):
        (tmp_path / str(index)).mkdir()
        write_png(tmp_path / str(index) / "image.png", index, 32, 32)
    folder = read_image_folder(tmp_path, (3, 32, 32), Preprocessing((0.5,) * 3, (0.5,) * 3), 10)
    assert folder.labels is not None
    (batch,) = folder.batches(10)
    answers = loop.teacher(batch).argmax(1)
    right = 100 * float((answers == folder.labels).float().mean())
    loop.student = copy.deepcopy(loop.teacher)
    measured = script.measure(loop, folder, 1.0)
    assert (measured.drop, measured.same) == (0, 100)
    assert measured.float_accuracy == pytest.approx(right)
    with torch.no_grad():
        list(loop.student.parameters())[-1][(int(answers[0]) + 1) % 10] += 1e6
    other = script.measure(loop, folder, 1.0)
    assert other.same < 100
    assert other.float_accuracy == measured.float_accuracy


def test_the_command_keeps_what_it_did_and_refuses_another_run(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Residual(classes=10)
    monkeypatch.setattr(script, "module_of", lambda options: network)
    monkeypatch.setattr(script, "_images", lambda folder, options: None)
    told: list[int] = []
    monkeypatch.setattr(script, "measure", lambda loop, images, seconds: loop.step)
    monkeypatch.setattr(script, "_tell", lambda measured, file: told.append(measured))
    command = ["plain_accuracy.py", "--out", str(tmp_path), "--batch", "4"]
    for steps in ("3", "5"):
        monkeypatch.setattr("sys.argv", [*command, "--steps", steps])
        script.main()
    assert told == [3, 5]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["loop"]["step"] == 5
    monkeypatch.setattr("sys.argv", [*command, "--steps", "6", "--minutes", "0"])
    script.main()
    assert told == [3, 5]
    monkeypatch.setattr("sys.argv", [*command, "--steps", "6", "--network", "resnet20"])
    with pytest.raises(SystemExit):
        script.main()
