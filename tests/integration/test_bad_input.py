"""Bad input through the command line: three lines, exit code 2, and nothing written."""

import io
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from support.arch_sources import REFUSED, SORTING
from support.small_networks import Residual, with_statistics
from torch import nn

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.inspection.matching import Candidate, Match

pytestmark = pytest.mark.integration

ARCH_FILE = REFUSED + SORTING


@dataclass(frozen=True)
class Refusal:
    rule: str
    received: str
    remedy: str


class Case:
    """A folder with a good network, and the command on some other one."""

    def __init__(self, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.net = folder / "net.py"
        self.net.write_text(ARCH_FILE, encoding="utf-8")
        self.arch = f"{self.net}:build"
        self.out = folder / "out"

    def network(self, factory: str = "build") -> nn.Module:
        names: dict[str, Any] = {}
        exec(ARCH_FILE, names)
        network: nn.Module = names[factory]()
        return with_statistics(network)

    def weights(self, **changes: torch.Tensor) -> Path:
        return self.saved({**self.network().state_dict(), **changes})

    def saved(self, value: Any) -> Path:
        path = self.folder / "model.pt"
        torch.save(value, path)
        return path

    def refused(self, model: Path, *flags: str, arch: str | None = "") -> Refusal:
        """Run ``quantize`` and take its three lines apart; the folder must stay as it was."""
        words = ["lrq-deploy", "quantize", str(model), "--recipe", "fast", "--quiet"]
        if arch is not None:
            words += ["--arch", arch or self.arch]
        if "--bits" not in flags:
            words += ["--bits", "4"]
        if "--out" not in flags:
            words += ["--out", str(self.out)]
        if "--input-shape" not in flags and arch is not None:
            words += ["--input-shape", "3,12,12"]
        before = self._listing()
        self._monkeypatch.setattr(sys, "argv", [*words, *flags])
        with pytest.raises(SystemExit) as caught:
            main.run()
        written = self._capsys.readouterr()
        assert caught.value.code == main.EXIT_INPUT, written.err
        assert written.out == ""
        assert self._listing() == before
        # torch logs a failed trace on its own before the three lines.
        said = written.err[written.err.index("error: ") :]
        rule, received, remedy = said.rstrip("\n").split("\n  ")
        assert rule.startswith("error: ")
        assert received.startswith("received: ")
        assert remedy.startswith("remedy: ")
        parts = (line.partition(": ")[2] for line in (rule, received, remedy))
        refusal = Refusal(*parts)
        assert refusal.rule
        assert refusal.received
        assert refusal.remedy
        return refusal

    def _listing(self) -> list[str]:
        return sorted(str(path) for path in self.folder.rglob("*"))


@pytest.fixture
def case(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, capsys, monkeypatch)


def line_of(mark: str) -> int:
    """Line number in the file of factories, counted from 1."""
    return 1 + next(n for n, text in enumerate(ARCH_FILE.splitlines()) if text.endswith(mark))


def pictures(folder: Path, classes: int) -> Path:
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        pixels = np.full((12, 12, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"class{number}" / "a.png")
    return folder


def test_missing_file(case: Case) -> None:
    assert "no.pt" in case.refused(case.folder / "no.pt").received


def test_not_a_checkpoint(case: Case) -> None:
    path = case.folder / "model.pt"
    path.write_text("these are not weights\n" * 50, encoding="utf-8")
    assert str(path) in case.refused(path).received


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_file(case: Case, share: float) -> None:
    path = case.weights()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refusal = case.refused(path)
    assert str(path) in refusal.received
    assert "again" in refusal.remedy


def test_truncated_archive(case: Case, digits_teacher: TrainedDigits) -> None:
    data = digits_teacher.model_file.read_bytes()
    path = case.folder / "model.pt"
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in case.refused(path, arch=None).received


def test_state_dict_that_does_not_fit_names_the_first_five(case: Case) -> None:
    wide = {name: torch.zeros(9, *v.shape[1:]) for name, v in case.network().state_dict().items()}
    refusal = case.refused(case.saved(wide))
    text = refusal.rule + refusal.received
    names = list(case.network().state_dict())
    assert sum(name in text for name in names) == 5
    assert "9" in text


def test_arch_file_that_fails_to_import(case: Case) -> None:
    broken = case.folder / "broken.py"
    broken.write_text("import torch\n\nimport no_such_package_of_mine\n", encoding="utf-8")
    refusal = case.refused(case.weights(), arch=f"{broken}:build")
    assert "no_such_package_of_mine" in refusal.received
    assert "line 3" in refusal.received


def test_missing_factory(case: Case) -> None:
    refusal = case.refused(case.weights(), arch=f"{case.net}:biuld")
    assert "biuld" in refusal.received
    assert "build" in refusal.remedy


@pytest.mark.parametrize("bits", ["1", "9", "-4"])
@pytest.mark.parametrize("flag", ["--bits", "--weight-bits", "--act-bits", "--edge-bits"])
def test_bits_out_of_range(case: Case, flag: str, bits: str) -> None:
    refusal = case.refused(case.weights(), flag, bits)
    assert "2..8" in refusal.rule
    assert refusal.received == bits


def test_tensorrt_with_free_zero_points(case: Case) -> None:
    flags = ("--act-symmetry", "asymmetric", "--target", "tensorrt")
    refusal = case.refused(case.weights(), *flags)
    assert "zero points of 0" in refusal.rule
    assert "asymmetric" in refusal.received


def test_a_target_that_nobody_knows(case: Case) -> None:
    refusal = case.refused(case.weights(), "--target", "openvino")
    assert "openvino" in refusal.received
    assert "onnxruntime, tensorrt" in refusal.remedy


@pytest.mark.parametrize("shape", ["1,12,12", "3,4,4", "3,12", "12,12,3", "3,1000,1000"])
def test_wrong_input_shape(case: Case, shape: str) -> None:
    refusal = case.refused(case.weights(), "--input-shape", shape)
    assert "shape" in refusal.rule + refusal.remedy


def test_input_shape_that_an_archive_contradicts(case: Case, digits_teacher: TrainedDigits) -> None:
    refusal = case.refused(digits_teacher.model_file, "--input-shape", "3,8,8", arch=None)
    assert "3,8,8" in refusal.received
    assert "1,8,8" in refusal.received


def test_empty_image_folder(case: Case) -> None:
    folder = case.folder / "images"
    folder.mkdir()
    assert str(folder) in case.refused(case.weights(), "--images", str(folder)).received


def test_more_class_folders_than_logits(case: Case) -> None:
    folder = pictures(case.folder / "images", 7)
    refusal = case.refused(case.weights(), "--images", str(folder))
    assert "7" in refusal.received
    assert "5" in refusal.rule + refusal.received


@pytest.mark.parametrize("out", ["file", "file/out", "full", "/proc/out", "/proc/1/a/b"])
def test_an_output_that_cannot_be_written(case: Case, out: str) -> None:
    (case.folder / "file").write_text("mine", encoding="utf-8")
    (case.folder / "full").mkdir()
    (case.folder / "full" / "thesis.tex").write_text("mine", encoding="utf-8")
    if out.startswith("/proc") and not Path("/proc/1").exists():
        pytest.skip("this system has no /proc")
    # An absolute path replaces the folder in front of it.
    refusal = case.refused(case.weights(), "--out", str(case.folder / out))
    assert "--out" in refusal.rule
    assert (case.folder / "full" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("out", [".", "..", "new/..", "../here", "/"])
def test_the_current_folder_is_no_output(
    case: Case, monkeypatch: pytest.MonkeyPatch, out: str, force: tuple[str, ...]
) -> None:
    (case.folder / "here").mkdir()
    monkeypatch.chdir(case.folder / "here")
    refusal = case.refused(case.weights(), "--out", out, *force)
    assert "--out" in refusal.rule + refusal.remedy
    assert refusal.received.startswith(out)


@pytest.mark.parametrize("cache", ["file", "file/c", "/proc/c"])
def test_a_cache_that_cannot_be_written(case: Case, cache: str) -> None:
    (case.folder / "file").write_text("mine", encoding="utf-8")
    if cache.startswith("/proc") and not Path("/proc/1").exists():
        pytest.skip("this system has no /proc")
    refusal = case.refused(case.weights(), "--cache", str(case.folder / cache))
    assert refusal.rule.startswith("--cache must")
    assert refusal.received == str(case.folder / cache).removesuffix("/c")


def test_force_does_not_replace_what_is_no_bundle(case: Case) -> None:
    case.out.mkdir()
    (case.out / "thesis.tex").write_text("mine", encoding="utf-8")
    assert "thesis.tex" in case.refused(case.weights(), "--force").received


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_cuda(case: Case) -> None:
    refusal = case.refused(case.weights(), "--device", "cuda")
    assert "--device cpu" in refusal.remedy


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.parametrize("arch", ["", None])
def test_pickle_bomb(case: Case, arch: str | None) -> None:
    marker = case.folder / "boom"
    path = case.saved({"state_dict": case.network().state_dict(), "extra": Bomb(marker)})
    refusal = case.refused(path, arch=arch)
    assert "system" in refusal.received
    assert "--trust-pickle" in refusal.remedy
    assert not marker.exists()


def test_a_pickled_module_names_what_it_would_import(case: Case) -> None:
    refusal = case.refused(case.saved(Residual()), arch=None)
    assert "Residual" in refusal.received


def test_torchscript(case: Case) -> None:
    network = case.network()
    path = case.folder / "model.pt"
    traced = torch.jit.trace(network, torch.zeros(1, 3, 12, 12))
    torch.jit.save(traced, path)
    refusal = case.refused(path, arch=None)
    assert "--arch unless exactly one known network" in refusal.rule
    assert "--trust-pickle with --input-shape" in refusal.remedy


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(case: Case, value: float) -> None:
    refusal = case.refused(case.weights(**{"3.weight": torch.full((4, 4, 3, 3), value)}))
    assert "finite" in refusal.rule
    assert "3.weight" in refusal.received


def test_no_batch_norm_and_a_method_that_needs_it(case: Case) -> None:
    path = case.saved(case.network("plain").state_dict())
    refusal = case.refused(path, "--method", "zeroq", arch=f"{case.net}:plain")
    assert "BatchNorm" in refusal.rule
    assert "--method leaves" in refusal.remedy


def test_no_batch_norm_and_no_range_of_the_pixels(case: Case) -> None:
    path = case.saved(case.network("plain").state_dict())
    refusal = case.refused(path, arch=f"{case.net}:plain")
    assert "--mean" in refusal.received


def test_a_zip_of_something_else(case: Case) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("holiday.txt", "sun")
    path = case.folder / "model.pt"
    path.write_bytes(buffer.getvalue())
    assert str(path) in case.refused(path).received


def test_a_state_dict_that_fits_no_known_network(case: Case) -> None:
    refusal = case.refused(case.weights(), arch=None)
    assert "unless exactly one known network fits" in refusal.rule
    assert "--arch FILE.py:FACTORY" in refusal.remedy


def test_a_state_dict_that_fits_several_lists_them(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = tuple(Candidate("timm", name, "", 5, 1000) for name in ("twin_a", "twin_b"))
    match = Match(twins, None, "only the padding differs")
    monkeypatch.setattr("lrq_deploy.loading.find_architectures", lambda shapes, stated: match)
    refusal = case.refused(case.weights(), arch=None)
    assert "timm:twin_a, timm:twin_b" in refusal.received
    assert "--arch timm:twin_a" in refusal.remedy


def test_another_number_of_classes_than_the_factory_builds(case: Case) -> None:
    changed = {"7.weight": torch.zeros(9, 4), "7.bias": torch.zeros(9)}
    refusal = case.refused(case.weights(**changed))
    assert "7.weight" in refusal.received
    assert "9" in refusal.received


def test_a_branch_on_the_image_is_named_with_its_line(case: Case) -> None:
    path = case.saved(case.network("branching").state_dict())
    refusal = case.refused(path, arch=f"{case.net}:branching")
    assert f"{case.net}:{line_of('# here')}" in refusal.received
    assert "torch.export archive" in refusal.remedy


def test_an_operator_without_onnx_form_is_named_before_training(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrq_deploy.cli.job.pipeline.synthesize_once", None)
    path = case.saved(case.network("sorting").state_dict())
    refusal = case.refused(path, arch=f"{case.net}:sorting")
    assert "ONNX form" in refusal.rule
    assert refusal.received == f"aten.median.dim at {case.net}:{line_of('# no ONNX form')}"
    assert "replace the operator" in refusal.remedy


def test_a_segmentation_head(case: Case) -> None:
    path = case.saved(case.network("segmenting").state_dict())
    refusal = case.refused(path, arch=f"{case.net}:segmenting")
    assert "out [N, 4, 10, 10], aux [N, 4, 10, 10]" in refusal.received
    assert "segmentation" in refusal.remedy


def test_an_archive_with_dynamic_sides(case: Case) -> None:
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=9)}
    program = torch.export.export(
        case.network(), (torch.zeros(2, 3, 12, 12),), dynamic_shapes=(sides,)
    )
    path = case.folder / "model.pt2"
    torch.export.save(program, path)
    refusal = case.refused(path, arch=None)
    assert "dynamic sides 3," in refusal.received
    assert "--input-shape" in refusal.remedy


def test_an_onnx_file(case: Case) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value, output = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"
    )
    path = case.folder / "model.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [output])), path)
    refusal = case.refused(path, arch=None)
    assert "BatchNorm" in refusal.rule
    assert "checkpoint" in refusal.remedy
