"""The folder for a device: what is in it, and that its script builds, runs and times there."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.frozen_graphs import residual_student
from support.trtexec import fake_trtexec
from typer.testing import CliRunner

from lrq_deploy.cli.main import app
from lrq_deploy.errors import (
    BundleError,
    LrqError,
    OptionError,
    OutputError,
    ParityError,
    WriteError,
)
from lrq_deploy.export.bundle.folder import Bundle, write_bundle
from lrq_deploy.export.bundle.validation_images import synthetic_batches
from lrq_deploy.export.device.check import CheckRuns, DeviceCheck
from lrq_deploy.export.device.folder import check_runs, write_device_folder
from lrq_deploy.export.device.outputs import judge_outputs
from lrq_deploy.export.device.trtexec import TrtexecKit
from lrq_deploy.export.engine import build as engine_build
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions, trtexec_arguments
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.simulation import exact_logits

pytestmark = pytest.mark.unit

PROFILE = BatchProfile(1, 4, 32)
OPTIONS = EngineOptions("tensorrt", batch=PROFILE, workspace_mib=256)
KIT = TrtexecKit(OPTIONS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = residual_student(4, 4, blocks=(1,))
    graphs = {
        f"model{infix}.onnx": to_onnx(model, target).SerializeToString(deterministic=True)
        for infix, target in (("", "onnxruntime"), (".tensorrt", "tensorrt"))
    }
    images = torch.rand(9, *model.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_bundle(tmp_path_factory.mktemp("b") / "net", model, graphs, images, 0, {}, {})


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``sh build.sh``, from another folder."""
    command = ["sh", str(folder / "build.sh")]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)


def calls(environment: dict[str, str]) -> list[list[str]]:
    return [
        json.loads(line) for line in Path(environment["TRTEXEC_CALLS"]).read_text().split("\n")[:-1]
    ]


def test_the_folder_holds_all_that_a_device_needs(bundle: Bundle, tmp_path: Path) -> None:
    written = write_device_folder(bundle, KIT, tmp_path / "dev")
    names = {path.name: path for path in written.path.iterdir()}
    graph = "model.tensorrt.onnx"
    assert set(names) == {graph, "build.sh", "expected.json", "images.0.bin", "images.1.bin"}
    assert names[graph].read_bytes() == bundle.file(graph).read_bytes()
    assert written.size_bytes == sum(path.stat().st_size for path in names.values())
    model = bundle.model()
    (images,) = synthetic_batches(bundle, model, 32, 32)
    first = np.frombuffer(names["images.0.bin"].read_bytes(), "<f4").reshape(32, *model.input_shape)
    assert torch.equal(torch.from_numpy(first.copy()), images)
    check = DeviceCheck.read(written.path)
    assert check == written.check
    assert (len(check.logits), written.images, check.images_per_file) == (64, 64, 32)
    assert torch.equal(torch.tensor(check.logits[:32]), exact_logits(model, images))
    assert check.graph_sha256 == bundle.manifest.files[graph].sha256
    assert json.loads(names["expected.json"].read_bytes())["schema_version"] == 2


def test_the_script_builds_runs_and_times_and_its_outputs_are_judged(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = write_device_folder(bundle, KIT, tmp_path / "mit leer ü" / "dev").path
    environment = fake_trtexec(tmp_path / "bin")
    done = run(folder, **environment)
    assert done.returncode == 0, done.stderr
    assert "GPU Compute Time: min = 0.9 ms" in done.stdout
    assert "lrq-deploy validate BUNDLE --device-outputs FOLDER" in done.stdout
    build, first, second, timing = calls(environment)
    arguments = ("model.tensorrt.onnx", "model.engine", (3, 16, 16), OPTIONS)
    assert build[:-3] == trtexec_arguments(*arguments)
    assert {"--noTF32", "--stronglyTyped", "--memPoolSize=workspace:256"} < set(build)
    assert "--skipInference" in build
    for number, checked in enumerate((first, second)):
        assert f"--loadInputs=input:images.{number}.bin" in checked
        assert "--shapes=input:32x3x16x16" in checked
        assert "--noDataTransfers" not in checked
    assert {"--shapes=input:4x3x16x16", "--noDataTransfers", "--useCudaGraph"} < set(timing)
    assert (folder / "model.engine").exists()
    found = judge_outputs(bundle, folder)
    assert found.passes
    assert found.parity is not None
    assert (found.parity.count, found.parity.same_top1) == (64, 1)
    assert found.parity.same_rows == 1
    assert found.remark == ""
    assert judge_outputs(bundle, folder / "outputs.json") == found


def test_a_script_is_posix_and_finds_trtexec(bundle: Bundle, tmp_path: Path) -> None:
    options = EngineOptions("tensorrt", batch=BatchProfile(1, 1, 64))
    folder = write_device_folder(bundle, TrtexecKit(options), tmp_path / "dev").path
    subprocess.run(["sh", "-n", str(folder / "build.sh")], check=True)
    environment = fake_trtexec(tmp_path / "bin")
    bare = {**environment, "PATH": "/usr/bin:/bin"}
    missing = run(folder, **bare)
    assert missing.returncode == 2
    assert "/usr/src/tensorrt/bin/trtexec is no program" in missing.stderr
    assert "TRTEXEC=/path/to/trtexec sh build.sh" in missing.stderr
    named = {**bare, "TRTEXEC": "bin/trtexec"}
    done = subprocess.run(
        ["sh", "dev/build.sh"], env=named, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert judge_outputs(bundle, folder).passes


def test_validate_judges_what_came_back(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_device_folder(bundle, KIT, tmp_path / "dev").path
    flags = ["validate", str(bundle.path), "--count", "4", "--reference-count", "1"]
    flags += ["--device-outputs", str(folder), "--quiet"]
    refused = CliRunner().invoke(app, flags)
    assert isinstance(refused.exception, BundleError)
    assert run(folder, **fake_trtexec(tmp_path / "bin")).returncode == 0
    done = CliRunner().invoke(app, [*flags, "--json"])
    assert done.exit_code == 0, done.output
    rung = json.loads(done.stdout)["rungs"][-1]
    assert (rung["name"], rung["parity"]["count"], rung["passes"]) == ("device", 64, True)
    outputs = folder / "outputs.json"
    outputs.write_text(re.sub(r"(?<=[\[,] )-?(?=\d)", "-", outputs.read_text()))
    wrong = CliRunner().invoke(app, flags)
    assert isinstance(wrong.exception, ParityError)
    assert "device: top-1 " in wrong.exception.received
    assert "NOT VALID: below the bound: TensorRT on the device." in wrong.stdout


@pytest.mark.parametrize("failing", ["onnx", "exportOutput"])
def test_where_trtexec_fails_the_script_does_and_leaves_no_outputs(
    bundle: Bundle, tmp_path: Path, failing: str
) -> None:
    folder = write_device_folder(bundle, KIT, tmp_path / "dev").path
    (folder / "outputs.json").write_text("of an earlier run")
    done = run(folder, TRTEXEC_FAILS=failing, **fake_trtexec(tmp_path / "bin"))
    assert done.returncode == 1
    assert "no luck" in done.stderr
    assert "trtexec failed; all that it said is in " in done.stderr
    assert not (folder / "outputs.json").exists()


def test_times_that_fail_keep_the_outputs(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_device_folder(bundle, KIT, tmp_path / "dev").path
    done = run(folder, TRTEXEC_FAILS="exportTimes", **fake_trtexec(tmp_path / "bin"))
    assert done.returncode == 1
    assert judge_outputs(bundle, folder).passes


def test_the_rest_in_fp16_has_its_own_graph(bundle: Bundle, tmp_path: Path) -> None:
    options = EngineOptions("tensorrt", batch=PROFILE, fp16_rest=True)
    folder = write_device_folder(bundle, TrtexecKit(options), tmp_path / "dev").path
    assert DeviceCheck.read(folder).about["fp16_rest"]
    assert "--noTF32" not in (folder / "build.sh").read_text()
    onnx.checker.check_model(onnx.load(folder / "model.tensorrt.onnx"))


@pytest.mark.parametrize(
    ("batch", "shape", "size", "count"),
    [
        ((1, 1, 8), (3, 32, 32), 8, 8),
        ((1, 1, 1), (3, 32, 32), 1, 16),
        ((1, 8, 48), (3, 32, 32), 48, 1),
        ((100, 100, 200), (3, 32, 32), 100, 1),
        ((1, 1, 8), (3, 1024, 1024), 5, 1),
        ((1, 1, 8), (3, 8192, 8192), 1, 1),
    ],
)
def test_check_images_fill_batches_of_the_engine(
    batch: tuple[int, int, int], shape: tuple[int, int, int], size: int, count: int
) -> None:
    assert check_runs(BatchProfile(*batch), shape) == CheckRuns(size, count)


def test_no_builder_is_asked(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(engine_build, "cuda_device_count", refused)
    monkeypatch.setattr("lrq_deploy.export.engine.build.importlib.import_module", refused)
    flags = ["--engine", "tensorrt", "--batch", "64", "--for-device", str(tmp_path / "dev")]
    done = CliRunner().invoke(app, ["build", str(bundle.path), *flags])
    assert done.exit_code == 0, done.output
    assert "64 check images" in done.stdout
    validate = ["lrq-deploy", "validate", str(bundle.path)]
    line = next(line for line in done.stdout.splitlines() if "validate" in line)
    assert shlex.split(line) == [*validate, "--device-outputs", str(tmp_path / "dev")]
    assert DeviceCheck.read(tmp_path / "dev").about["batch"] == [64, 64, 64]


def test_the_command_says_what_it_wrote_in_json(bundle: Bundle, tmp_path: Path) -> None:
    flags = ["--engine", "tensorrt", "--for-device", str(tmp_path / "dev"), "--json"]
    done = CliRunner().invoke(app, ["build", str(bundle.path), *flags])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == {
        "schema_version": 1,
        "path": str(tmp_path / "dev"),
        "size_bytes": document["size_bytes"],
        "images": 64,
        "graph_sha256": bundle.manifest.files["model.tensorrt.onnx"].sha256,
        "fp16_rest": False,
        "batch": [1, 1, 8],
    }


@pytest.mark.parametrize(
    ("flags", "error", "rule"),
    [
        (["--engine", "tensorrt-rtx"], OptionError, "--for-device is for TensorRT, which"),
        (["--preoptimize"], OptionError, "--for-device needs the runtime"),
        ([], OptionError, "--for-device needs the runtime"),
        (["--engine", "tensorrt", "--force"], OptionError, "--for-device names the folder"),
        (["--engine", "tensorrt", "--out", "x"], OptionError, "--for-device names the folder"),
        (["--engine", "tensorrt", "--sm", "86"], OptionError, "--sm is for tensorrt-rtx"),
        (["--engine", "tensorrt", "--batch", "99999999"], OptionError, "--batch must hold at"),
    ],
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(
    bundle: Bundle, tmp_path: Path, flags: list[str], error: type[LrqError], rule: str
) -> None:
    out = ["--for-device", str(tmp_path / "dev")]
    done = CliRunner().invoke(app, ["build", str(bundle.path), *flags, *out])
    assert isinstance(done.exception, error)
    assert done.exception.rule.startswith(rule)
    assert list(tmp_path.iterdir()) == []


def test_check_images_are_the_first_of_validate(bundle: Bundle, tmp_path: Path) -> None:
    options = EngineOptions("tensorrt", batch=BatchProfile(1, 1, 20))
    folder = write_device_folder(bundle, TrtexecKit(options), tmp_path / "dev").path
    parts = sorted(folder.glob("images.*.bin"))
    pixels = b"".join(path.read_bytes() for path in parts)
    images = torch.cat([*synthetic_batches(bundle, bundle.model(), 1000, 32)])[:60]
    assert len(parts) == 3
    assert pixels == images.numpy().tobytes()


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_is_there_stays(bundle: Bundle, tmp_path: Path, there: str) -> None:
    out = tmp_path / "dev"
    if there == "folder":
        out.mkdir()
    elif there == "file":
        out.touch()
    else:
        out.symlink_to("nowhere")
    with pytest.raises(OutputError, match="--for-device must name a folder that does not exist"):
        write_device_folder(bundle, KIT, out)
    with pytest.raises(OutputError, match="--for-device must lie in a directory that can be"):
        write_device_folder(bundle, KIT, Path("/proc/dev"))
    assert [path.name for path in tmp_path.iterdir()] == ["dev"]


def test_a_full_disk_is_said_in_the_words_of_the_option(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrq_deploy.export.bundle.output_directory.os.fsync", full)
    with pytest.raises(WriteError, match="folder of --for-device must be written completely"):
        write_device_folder(bundle, KIT, tmp_path / "dev")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_the_graph_has_no_folder(bundle: Bundle, tmp_path: Path) -> None:
    model = bundle.model()
    graphs = {"model.onnx": bundle.file("model.onnx").read_bytes()}
    images = torch.zeros(1, *model.input_shape)
    other = write_bundle(tmp_path / "net", model, graphs, images, 0, {}, {})
    with pytest.raises(BundleError, match=r"the bundle's model\.tensorrt\.onnx"):
        write_device_folder(other, KIT, tmp_path / "dev")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
