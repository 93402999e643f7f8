"""``--task multilabel`` end to end: four questions about real digits, a yes or no each."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.demo_network import DigitNetwork, TrainedDigits, load_digit_data
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, options_from
from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.export.bundle.folder import Bundle, load_bundle
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.method.recipe import RecipeSettings

pytestmark = pytest.mark.integration

QUESTIONS = torch.tensor(
    [
        [1, 0, 1, 0, 1, 0, 1, 0, 1, 0],  # even
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],  # five or more
        [1, 0, 0, 0, 0, 0, 1, 0, 1, 1],  # a closed loop
        [0, 1, 0, 0, 1, 0, 0, 1, 0, 0],  # straight strokes
    ]
).T.float()
EPOCHS = 8
MIN_TEACHER = 0.95
SHORT = RecipeSettings(
    generator_steps=60,
    refinement_steps=5,
    pool_images=640,
    held_out_images=128,
    student_steps=120,
    batch_size=64,
    calibration_images=128,
)


class Questions(nn.Module):
    """The body of the digit network with one sigmoid per question."""

    def __init__(self) -> None:
        super().__init__()
        self.body = DigitNetwork()
        self.body.classify = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.body(x))


@dataclass(frozen=True)
class Answered:
    network: nn.Module
    bundle: Bundle


def trained() -> nn.Module:
    data = load_digit_data()
    images, wanted = data.train_pixels.float() / 255, QUESTIONS[data.train_labels]
    torch.manual_seed(0)
    network = Questions().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.binary_cross_entropy(network(images[batch]), wanted[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, digits_teacher: TrainedDigits) -> Answered:
    folder = tmp_path_factory.mktemp("multilabel")
    network = trained()
    flags = QuantizeFlags(
        bits=4,
        input_shape=(1, 8, 8),
        mean=(0.0,),
        std=(1.0,),
        task="multilabel",
        images=digits_teacher.image_folder,
        device="cpu",
        out=folder / "bundle",
    )
    options = options_from(Path("questions"), flags)
    result = quantize(options, network=network, settings=SHORT)
    assert result.ship
    bundle = load_bundle(options.out)
    return Answered(network, bundle)


def test_four_bits_answer_like_the_teacher_on_real_digits(answered: Answered) -> None:
    data = load_digit_data()
    x = data.test_pixels.float() / 255
    with torch.no_grad():
        theirs = answered.network(x) > 0.5
    wanted = QUESTIONS[data.test_labels].bool()
    assert (theirs == wanted).double().mean() > MIN_TEACHER
    ours = open_session(answered.bundle.file("model.onnx")).logits(x) > 0
    same = (ours == theirs).double()
    fidelity = answered.bundle.manifest.metrics["fidelity"]
    assert fidelity["count"] == 450
    assert fidelity["agreement"] == pytest.approx(float(same.mean()))
    assert fidelity["labels"]["per_label"] == pytest.approx(same.mean(0).tolist())
    assert fidelity["labels"]["exact"] == pytest.approx(float(same.amin(1).mean()))
    hits = int((ours & theirs).sum())
    f1 = 2 * hits / int(ours.sum() + theirs.sum())
    assert fidelity["labels"]["f1"] == pytest.approx(f1)
    assert fidelity["teacher_accuracy"] is None
    assert fidelity["agreement"] > 0.95
    assert f1 > 0.95


def test_the_sigmoid_is_taken_off_and_the_student_knows_its_task(answered: Answered) -> None:
    model = answered.bundle.model()
    assert model.task == "multilabel"
    logits = model.logits(load_digit_data().test_pixels[:64].float() / 255)
    assert logits.min() < 0
    assert logits.max() > 1
    assert answered.bundle.manifest.metrics["parity"]["same_top1"] >= 0.999


def test_validate_takes_folders_of_any_number(
    answered: Answered,
    digits_teacher: TrainedDigits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["lrq-deploy", "validate", str(answered.bundle.path), "--count", "64"]
    words += [
        "--images",
        str(digits_teacher.image_folder),
        "--reference-count",
        "4",
        "--json",
        "--quiet",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 0
    assert '"passes": true' in capsys.readouterr().out
