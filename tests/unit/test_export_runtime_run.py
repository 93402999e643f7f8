"""The program in a folder for ONNX Runtime on a device: it runs alone and says what is wrong."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.device.folder import write_device_folder
from lrq_deploy.export.device.onnxruntime_kit import OnnxRuntimeKit
from lrq_deploy.export.runtime import run
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit

OLDEST_PYTHON = (3, 8)  # JetPack 5
ABSENT = ("torch", "torchvision", "lrq_deploy", "onnx", "PIL", "pydantic")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path_factory.mktemp("b") / "net")


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "dev").path


def alone(
    folder: Path, *arguments: str, absent: tuple[str, ...] = ABSENT
) -> subprocess.CompletedProcess[str]:
    """``python run.py`` where these packages are not installed."""
    program = (
        f"import runpy, sys\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, str(folder / "run.py"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", env=environment
    )


def expect(folder: Path, **changes: Any) -> None:
    """Write other things into ``expected.json``."""
    path = folder / "expected.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_old_interpreters_of_devices_read_it() -> None:
    ast.parse(Path(run.__file__).read_text(encoding="utf-8"), feature_version=OLDEST_PYTHON)


def test_it_runs_alone_and_writes_what_it_found(folder: Path) -> None:
    (folder / "outputs.json").write_text("of an earlier run")
    done = alone(folder, "--threads", "2", "--runs", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 threads" in done.stdout
    assert "same top-1 as expected: 64 of 64; same bits as where" in done.stdout
    assert "written: 64 of 64 images" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == [
        *("expected.json", "float.onnx", "images.0.bin", "model.onnx", "outputs.json", "run.py")
    ]
    document = json.loads((folder / "outputs.json").read_bytes())
    assert (document["threads"], document["runs"]) == (2, 10)
    assert document["device"]["onnxruntime"] == onnxruntime.__version__
    assert document["device"]["providers"] == ["CPUExecutionProvider"]
    times = document["batches"][0]
    ratio = times["quantized"]["p50_ms"] / times["float_graph"]["p50_ms"]
    assert f"quantized takes {ratio:.3f} of the time of float" in done.stdout
    assert document["quantized_bytes"] == (folder / "model.onnx").stat().st_size
    expected = json.loads((folder / "expected.json").read_bytes())
    assert document["logits"] == expected["here"]


def test_what_differs_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads((folder / "expected.json").read_bytes())
    here, logits = document["here"], document["logits"]
    here[3][0] += 1e-3
    best = max(range(len(logits[5])), key=logits[5].__getitem__)
    logits[5][best] = min(logits[5]) - 1
    expect(folder, here=here, logits=logits)
    assert run.main(["--runs", "10"], folder) == 0
    said = capsys.readouterr().out
    assert "expected: 63 of 64; " in said
    assert "written: 63 of 64 images" in said


@pytest.mark.parametrize("program", [[sys.executable, "-c", "1 / 0"], ["/no/program"]])
def test_memory_that_cannot_be_told_is_left_out(
    folder: Path,
    program: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "peak_memory_command", lambda *_: program)
    assert run.main(["--runs", "10"], folder) == 0
    document = json.loads((folder / "outputs.json").read_bytes())
    assert document["float_memory_bytes"] is document["quantized_memory_bytes"] is None
    assert capsys.readouterr().out.count("           -\n") == 2


def test_labels_are_each_a_yes_or_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = replace(residual_student(4, 4, blocks=(1,)), task="multilabel")
    bundle = bundle_of(model, tmp_path / "net")
    folder = write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "dev").path
    assert run.main(["--runs", "10"], folder) == 0
    labels = 64 * model.num_classes
    assert f"same yes or no of a label as expected: {labels} of {labels}" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["numpy", "onnxruntime"])
def test_a_package_that_is_missing_is_named(folder: Path, package: str) -> None:
    said = refused(alone(folder, absent=(package,)))
    assert f"import of {package} halted" in said
    assert "-m pip install numpy onnxruntime" in said


@pytest.mark.parametrize(
    ("oldest", "remedy"),
    [
        ("1.18", "install 99.0 or newer, or write the folder for this one where lrq-deploy is: "),
        ("98.0", "install 99.0 or newer\n"),
    ],
)
def test_a_runtime_that_is_too_old_is_told_what_to_do(
    folder: Path, oldest: str, remedy: str
) -> None:
    newer = onnx.load(folder / "model.onnx")
    newer.ir_version = 99
    data = newer.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    files = json.loads((folder / "expected.json").read_bytes())["files"]
    about = {"needs_onnxruntime": "99.0", "oldest_onnxruntime": oldest}
    digest = hashlib.sha256(data).hexdigest()
    expect(folder, files={**files, "model.onnx": digest}, about=about)
    said = refused(alone(folder))
    assert f"onnxruntime {onnxruntime.__version__} does not load model.onnx: " in said
    assert "IR version: 99" in said
    assert remedy in said
    version = ".".join(onnxruntime.__version__.split(".")[:2])
    assert (f"--onnxruntime {version} --for-device DIR" in said) == (oldest == "1.18")
    expect(folder, about={"needs_onnxruntime": "1.18", "oldest_onnxruntime": "1.18"})
    assert "install" not in refused(alone(folder))


@pytest.mark.parametrize("name", ["model.onnx", "float.onnx", "images.0.bin", "run.py"])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"#")
    assert f"{name} is not the file that was written; copy the folder" in refused(alone(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"model.onnx": 3}}', "\xff"])
def test_a_damaged_expectation_is_refused(folder: Path, text: str) -> None:
    (folder / "expected.json").write_bytes(text.encode("latin-1"))
    said = refused(alone(folder))
    assert "expected.json is damaged" in said or "not the file that was written" in said


@pytest.mark.parametrize("name", ["expected.json", "images.0.bin"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{name}: No such file or directory" in refused(alone(folder))


def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a folder of another user does, which the superuser would not notice.
    (folder / "outputs.json").mkdir()
    monkeypatch.setattr(run, "open_runtime", None)
    assert run.main([], folder) == 2
    assert "outputs.json cannot be written: Is a directory; copy the folder" in (
        capsys.readouterr().err
    )
    assert not (folder / "outputs.json.partial").exists()


@pytest.mark.parametrize("flags", [["--threads", "0"], ["--runs", "9"], ["--runs", "x"], ["x"]])
def test_wrong_options_are_refused(
    folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run.main(flags, folder)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_sessions_here_are_those_of_the_device(folder: Path) -> None:
    theirs = run.open_runtime(str(folder / "model.onnx"), 2).get_session_options()
    ours = open_session(folder / "model.onnx", 2).runtime.get_session_options()
    for options in (theirs, ours):
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
        assert options.graph_optimization_level == (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        )
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    plain = open_session(folder / "model.onnx", level="off").runtime.get_session_options()
    assert plain.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_runs_take_turns() -> None:
    called: list[str] = []
    calls = [lambda: called.append("a"), lambda: called.append("b")]
    taken = run.interleaved(calls, 1, 3)
    assert "".join(called) == "ab" + "ababab"
    assert [len(seconds) for seconds in taken] == [3, 3]


def test_processor_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Fast CPU 9\nflags: x\n")
    assert run.cpu_name(tmp_path / "cpuinfo") == "Fast CPU 9"
    assert run.cpu_name(tmp_path / "missing")


def test_a_board_stands_for_a_processor_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {Path("/proc/device-tree/model"): "Raspberry Pi 4 Model B Rev 1.4\0"}
    monkeypatch.setattr(run, "_told", lambda path: told.get(path, ""))
    assert run.cpu_name(tmp_path / "cpuinfo") == "Raspberry Pi 4 Model B Rev 1.4"


def test_logits_are_those_of_the_graph(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_bytes())
    pixels = (folder / "images.0.bin").read_bytes()
    images = torch.frombuffer(bytearray(pixels), dtype=torch.float32)
    logits = open_session(folder / "model.onnx").logits(images.reshape(64, 3, 16, 16))
    assert torch.equal(torch.tensor(expected["here"]), logits)
