"""The demo's network: accurate, deterministic, and saved so that it reads back exactly."""

from pathlib import Path

import pytest
import torch

from lrq_deploy.cli.commands.demo_network import TrainedDigits, load_digit_data, train_digits
from lrq_deploy.images import read_image_folder
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

GREY = Preprocessing((0.0,), (1.0,))


def test_the_split_keeps_every_digit_once() -> None:
    data = load_digit_data()
    assert data.train_pixels.shape == (1347, 1, 8, 8)
    assert data.test_pixels.shape == (450, 1, 8, 8)
    assert data.train_pixels.dtype == torch.uint8
    assert torch.bincount(data.test_labels).min() >= 40
    assert int(data.train_pixels.max()) == 255


def test_the_archive_and_the_folder_reproduce_the_accuracy(digits_teacher: TrainedDigits) -> None:
    program = torch.export.load(digits_teacher.model_file)
    found = read_image_folder(digits_teacher.image_folder, (1, 8, 8), GREY, num_classes=10)
    assert found.labels is not None
    assert len(found) == 450
    assert found.skipped == 0
    with torch.no_grad():
        logits = torch.cat([program.module()(batch) for batch in found.batches(64)])
    accuracy = 100 * float((logits.argmax(dim=1) == found.labels).double().mean())
    assert accuracy == pytest.approx(digits_teacher.accuracy)
    assert accuracy > 97


def test_the_archive_keeps_its_batch_norms(digits_teacher: TrainedDigits) -> None:
    program = torch.export.load(digits_teacher.model_file)
    operators = [str(node.target) for node in program.graph.nodes]
    assert sum("batch_norm" in name for name in operators) == 4
    assert sum("aten.add.Tensor" in name for name in operators) >= 1


def test_training_is_deterministic_and_reports_progress(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    before = torch.random.get_rng_state()
    first = train_digits(tmp_path / "a", 1, events.append, epochs=1)
    second = train_digits(tmp_path / "b", 1, epochs=1)
    third = train_digits(tmp_path / "c", 2, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [torch.export.load(run.model_file).state_dict for run in (first, second, third)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["stem.0.weight"], weights[2]["stem.0.weight"])
    assert [event.step for event in events] == [0, 1]
