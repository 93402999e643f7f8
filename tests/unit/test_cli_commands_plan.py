"""``lrq-deploy plan``: what it prints, in words and as JSON, and that it writes nothing."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from support.arch_sources import SORTING
from support.small_networks import with_statistics
from torch import nn

from lrq_deploy.cli import main
from lrq_deploy.cli.job import rehearsing
from lrq_deploy.method.images.normalisation import PixelCheck
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.planning import make
from lrq_deploy.student.layers import ActQuantizer
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

ARCH_FILE = """
from torch import nn

def talking():
    print("built for you by build()")
    return build()

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.main, self.aux = nn.Linear(4, 5), nn.Linear(4, 6)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return {"main": self.main(x), "aux": self.aux(x)}

class Recurrent(Heads):
    def __init__(self):
        super().__init__()
        self.rows = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        return self.main(self.rows(self.body(x).mean(2).transpose(1, 2))[0].mean(1))

def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5))
"""
ARCH_FILE += SORTING


class Program:
    """The command on a network in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        (folder / "net.py").write_text(ARCH_FILE, encoding="utf-8")

    columns = "200"
    """Of the terminal."""
    averaged = False
    """Whether the file holds a second set of weights."""

    def run(self, *flags: str, factory: str = "build") -> tuple[object, str]:
        """Exit code and all output; the folder must stay as it was."""
        code, out, err = self.streams(*flags, factory=factory)
        return code, out + err

    def streams(self, *flags: str, factory: str = "build") -> tuple[object, str, str]:
        """The same with stdout and stderr apart."""
        names: dict[str, nn.Module] = {}
        exec(ARCH_FILE, names)
        state = with_statistics(names[factory]()).state_dict()
        content = {"model": state, "model_ema": state} if self.averaged else state
        torch.save(content, self._folder / "model.pt")
        self._capsys.readouterr()
        before = sorted(self._folder.rglob("*"))
        words = ["lrq-deploy", "plan", str(self._folder / "model.pt"), "--input-shape", "3,12,12"]
        arch = f"{self._folder / 'net.py'}:{factory}"
        self._monkeypatch.setattr(sys, "argv", [*words, "--arch", arch, "--quiet", *flags])
        self._monkeypatch.setenv("COLUMNS", self.columns)
        self._monkeypatch.chdir(self._folder)
        with pytest.raises(SystemExit) as caught:
            main.run()
        assert sorted(self._folder.rglob("*")) == before
        written = self._capsys.readouterr()
        return caught.value.code, written.out, written.err


@pytest.fixture
def program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Program:
    return Program(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize("columns", ["40", "90"])
def test_what_is_said_of_a_layer_is_never_cut(program: Program, columns: str) -> None:
    program.columns = columns
    code, text = program.run("--weight-bits", "4", "--act-bits", "8")
    assert code == 0
    assert "\u2026" not in text
    words = text.replace(",", " ").split()
    for part in ("depthwise", "8x1x3x3", "W4A8", "5x8"):
        assert part in words


def test_json_holds_the_whole_plan(program: Program) -> None:
    code, text = program.run("--json")
    found = json.loads(text)
    assert code == 0
    assert found["schema_version"] == 2
    assert found["scheme"]["weight_bits"] == found["scheme"]["act_bits"] == 4
    assert [layer["facts"]["grouping"] for layer in found["layers"]] == [
        "dense",
        "depthwise",
        "dense",
        "dense",
    ]
    assert found["multiply_adds"] == 144 * 8 * (27 + 9 + 8) + 40
    assert found["integer_share"] == {"onnxruntime": 1.0, "tensorrt": 1.0}
    assert "slower than FP16" in found["layers"][1]["executions"]["tensorrt"]["note"]
    assert found["sizes"]["packed_bytes"] < found["sizes"]["int8_bytes"]
    assert found["batch_norm"]["verdict"].startswith("Yes")
    assert found["total_seconds"] == pytest.approx(sum(found["duration"]["seconds"].values()))


def test_words_say_what_four_bits_buy_and_what_eight_would(program: Program) -> None:
    code, text = program.run()
    words = " ".join(text.split())
    assert code == 0
    for part in (
        "depthwise conv2d",
        "convolutions are not faster",
        "same engine size as 8 bits and not faster",
        "--weight-bits 4 --act-bits 8 keeps the download",
        "Yes: 3 BatchNorms for 4 layers.",
        "tensorrt, INT8 convolution, 1 layer: often slower than FP16",
        "lrq-deploy quantize",
    ):
        assert part in words
    # In hundredths of a MiB all sizes of so small a network would be alike.
    assert re.search(r"size on disk about \S+ KiB, instead of \S+ KiB with", words)
    assert re.search(r"\S+ KiB to download instead of \S+ KiB at 8 bits", words)


def test_other_widths_are_planned(program: Program) -> None:
    _, text = program.run("--bits", "8", "--json")
    found = json.loads(text)
    assert found["alternative"] == ""
    assert found["sizes"]["packed_bytes"] == found["sizes"]["int8_bytes"]


@pytest.mark.parametrize("stated", [False, True])
def test_the_next_command_reads_pixels_as_they_fit(
    program: Program, monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    wrong = ("--mean", "123.675,116.28,103.53", "--std", "58.4,57.1,57.4") if stated else ()
    fitting = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    _, text = program.run(*wrong)
    assert ("--mean=123.675,116.28,103.53" in text.splitlines()[-1]) == stated
    monkeypatch.setattr(make, "check_pixels", lambda _: PixelCheck("they do not fit", fitting))
    _, text = program.run(*wrong)
    assert "they do not fit" in text
    assert text.splitlines()[-1].count("--mean") == 1
    assert "--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225" in text.splitlines()[-1]
    _, text = program.run("--json", *wrong)
    assert json.loads(text)["fitting"]["mean"] == [0.485, 0.456, 0.406]


def test_a_longer_recipe_takes_longer(program: Program) -> None:
    seconds = [
        json.loads(program.run("--json", "--recipe", recipe)[1])["duration"]["seconds"]["student"]
        for recipe in ("fast", "best")
    ]
    assert seconds[1] > 3 * seconds[0]


def test_the_steps_are_those_of_the_recipe(program: Program) -> None:
    wanted = recipe_settings("balanced", (3, 12, 12))
    _, text = program.run("--json")
    found = json.loads(text)["duration"]
    assert found["generator_steps"] == wanted.generator_steps
    assert found["student_steps"] == wanted.student_steps
    _, text = program.run()
    said = f"{wanted.generator_steps} generator and {wanted.student_steps} student steps"
    assert said in " ".join(text.split())


def test_a_network_without_batch_norm_is_planned_with_painted_images(program: Program) -> None:
    pixels = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    code, text = program.run("--json", *pixels, factory="plain")
    assert code == 0
    found = json.loads(text)
    assert "--method leaves" in found["batch_norm"]["verdict"]
    assert found["duration"]["seconds"]["generator"] == 0
    # 2,560 + 1,024 images of 12 x 12 at a microsecond per pixel.
    assert found["duration"]["seconds"]["images"] == pytest.approx(0.516, abs=0.001)


def test_what_a_network_without_batch_norm_cannot_have_is_refused(program: Program) -> None:
    code, text = program.run("--method", "gdfq", factory="plain")
    assert code == main.EXIT_INPUT
    assert "--method leaves" in text
    code, text = program.run(factory="plain")
    assert code == main.EXIT_INPUT
    assert "neither --mean nor --std" in text


def test_json_has_stdout_for_itself(program: Program) -> None:
    code, out, err = program.streams("--json", factory="talking")
    assert code == 0
    assert "layers" in json.loads(out)
    assert "built for you" in err


@pytest.mark.parametrize("bits", ["mixed", "four", "4.5"])
def test_a_plan_is_of_one_width(program: Program, bits: str) -> None:
    code, text = program.run("--bits", bits)
    assert code == main.EXIT_INPUT
    assert text.startswith("error: --bits of a plan must be one number of bits")
    assert f"received: {bits!r}\n  remedy: pass --bits 4" in text


def test_bad_input_is_exit_code_2(program: Program) -> None:
    code, text = program.run("--bits", "1")
    assert code == main.EXIT_INPUT
    assert "2..8" in text


def test_a_target_is_what_quantize_would_write(program: Program) -> None:
    _, text = program.run("--target", "onnxruntime")
    command = text[text.index("Next:") :]
    assert "--target onnxruntime" in command
    assert "tensorrt" not in text


@pytest.mark.parametrize(("target", "largest"), [("onnxruntime", 255), ("all", 127)])
def test_the_planned_student_has_the_ranges_of_its_runtimes(
    program: Program, monkeypatch: pytest.MonkeyPatch, target: str, largest: int
) -> None:
    found: list[int] = []

    def rehearse(student: nn.Module, *_: object) -> None:
        found.extend(m.bounds.qmax for m in student.modules() if isinstance(m, ActQuantizer))

    monkeypatch.setattr(rehearsing, "rehearse_student", rehearse)
    code, _ = program.run("--bits", "8", "--target", target, factory="sorting")
    assert code == 0
    assert max(found) == largest


def test_a_target_that_cannot_run_the_scheme_is_refused_like_quantize_does(
    program: Program,
) -> None:
    free = ("--act-symmetry", "asymmetric")
    code, text = program.run(*free, "--target", "tensorrt")
    assert code == main.EXIT_INPUT
    assert "zero points of 0" in text
    code, text = program.run(*free, "--json")
    assert code == 0
    assert json.loads(text)["integer_share"] == {"onnxruntime": 1.0, "tensorrt": 0.0}
    code, text = program.run("--target", "openvino")
    assert code == main.EXIT_INPUT
    assert "onnxruntime, tensorrt" in text


def test_output_picks_one_of_several_heads(program: Program) -> None:
    code, text = program.run(factory="Heads")
    assert code == main.EXIT_INPUT
    assert "main [N, 5], aux [N, 6]" in text
    _, text = program.run("--json", "--output", "aux", factory="Heads")
    assert json.loads(text)["num_classes"] == 6


def test_what_multiplies_in_float_beside_layers_counts(program: Program) -> None:
    _, text = program.run("--json", factory="Recurrent")
    found, count = json.loads(text), 10 * 4 * 4 * (4 + 4)
    layers = 100 * 4 * 27 + 4 * 5
    assert found["strays"] == {"lstm": count}
    assert found["multiply_adds"] == layers + count
    share = pytest.approx(layers / (layers + count))
    assert found["integer_share"] == {"onnxruntime": share, "tensorrt": share}
    _, text = program.run(factory="Recurrent")
    assert "in float" in text
    assert "lstm: 0.00 M multiply-adds by stored numbers" in " ".join(text.split())


def test_an_operator_without_onnx_form_is_in_the_plan(program: Program) -> None:
    code, said = program.run("--json", factory="sorting")
    assert code == 0
    assert "aten.median.dim" in json.loads(said)["obstacle"]
    code, said = program.run(factory="sorting")
    assert code == 0
    assert "ONNX form" in said
    assert "Next:" not in said


def test_known_operators_are_not_rehearsed(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrq_deploy.cli.job.rehearsing.rehearse", None)
    code, said = program.run("--json")
    assert code == 0
    assert json.loads(said)["obstacle"] == ""


def test_pixels_that_the_batch_norm_did_not_see_are_doubted(program: Program) -> None:
    # The statistics are those of normal noise: its deviation is 1, as normalised pixels have.
    flags = ("--mean", "0,0,0", "--std", "0.004,0.004,0.004")
    code, text = program.run(*flags, "--json")
    said = json.loads(text)["normalisation"]
    assert code == 0
    assert said.startswith("--mean=0,0,0 --std=0.004,0.004,0.004 do not fit the first BatchNorm")
    assert f"\npixels {said}" in re.sub(r" +", " ", program.run(*flags)[1])
    fitting = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
    assert json.loads(program.run(*fitting, "--json")[1])["normalisation"] == ""
    assert "\npixels " not in program.run(*fitting)[1]


def test_averaged_weights_beside_are_told(program: Program) -> None:
    assert json.loads(program.run("--json")[1])["remarks"] == []
    program.averaged = True
    (remark,) = json.loads(program.run("--json")[1])["remarks"]
    assert remark.startswith("averaged weights lie under model_ema beside those that are read")
    assert "\nweights averaged weights lie under" in re.sub(r" +", " ", program.run()[1])


def test_an_option_that_finds_no_layer_is_told(program: Program) -> None:
    (remark,) = json.loads(program.run("--json", "--int4-linear")[1])["remarks"]
    assert remark.startswith("--int4-linear changes no layer: ")
    text = re.sub(r"\s+", " ", program.run("--int4-linear")[1])
    assert "weights --int4-linear changes no layer: " in text
    # The network has a depthwise convolution.
    assert json.loads(program.run("--json", "--depthwise", "float")[1])["remarks"] == []
