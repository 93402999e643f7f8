"""ONNX Runtime on a device: the folder that goes there, and what comes back is judged."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support.frozen_graphs import residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.main import app
from lrq_deploy.errors import BoundError, BundleError, OptionError, ParityError
from lrq_deploy.export.bundle import Bundle, write_bundle
from lrq_deploy.export.device import run
from lrq_deploy.export.device.check import DeviceCheck
from lrq_deploy.export.device.folder import write_device_folder
from lrq_deploy.export.device.onnxruntime_kit import OnnxRuntimeKit
from lrq_deploy.export.device.onnxruntime_outputs import device_benchmark
from lrq_deploy.export.device.outputs import judge_outputs
from lrq_deploy.export.device.trtexec import TrtexecKit
from lrq_deploy.export.engine.options import EngineOptions
from lrq_deploy.export.manifest import FileRecord
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity import ladder
from lrq_deploy.export.parity.bounds import as_close_as, integer_bound, with_ties_of
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime_version import OLDEST, needed_version
from lrq_deploy.export.validation_images import synthetic_batches
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit


def made(out: Path, bits: int = 4) -> Bundle:
    model = replace(residual_student(bits, bits, blocks=(1,)), scheme=Scheme(bits, bits))
    graphs = {
        f"model{infix}.onnx": to_onnx(model, target).SerializeToString(deterministic=True)
        for infix, target in (("", "onnxruntime"), (".tensorrt", "tensorrt"))
    }
    images = torch.rand(9, *model.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_bundle(out, model, graphs, images, 0, {}, {})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return made(tmp_path_factory.mktemp("b") / "net")


@pytest.fixture(scope="module")
def returned(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that came back from a device."""
    out = tmp_path_factory.mktemp("d") / "dev"
    folder = write_device_folder(bundle, OnnxRuntimeKit(), out).path
    assert run.main(["--runs", "10"], folder) == 0
    return folder


@pytest.fixture
def folder(returned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(returned, tmp_path / "dev"))


def change(folder: Path, **changes: Any) -> None:
    path = folder / "outputs.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def logits_of(folder: Path) -> list[list[float]]:
    logits: list[list[float]] = json.loads((folder / "outputs.json").read_bytes())["logits"]
    return logits


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_folder_holds_what_a_device_needs(bundle: Bundle, tmp_path: Path) -> None:
    written = write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "dev")
    names = {path.name: path.read_bytes() for path in written.path.iterdir()}
    check = DeviceCheck.read(written.path)
    assert check == written.check
    assert {*check.files, "expected.json"} == set(names)
    assert {"model.onnx", "float.onnx", "images.0.bin", "run.py"} == set(check.files)
    assert all(FileRecord.of(names[name]).sha256 == hash_ for name, hash_ in check.files.items())
    assert names["model.onnx"] == bundle.file("model.onnx").read_bytes()
    assert written.size_bytes == sum(len(data) for data in names.values())
    assert (check.runtime, check.graph) == ("onnxruntime", "model.onnx")
    (first, second) = synthetic_batches(bundle, bundle.model(), 64, 32)
    images = torch.cat([first, second])
    assert names["images.0.bin"] == images.numpy().tobytes()
    assert torch.equal(torch.tensor(check.logits), exact_logits(bundle.model(), images))
    operators = {node.op_type for node in onnx.load(written.path / "float.onnx").graph.node}
    assert "QuantizeLinear" not in operators


def test_an_older_runtime_gets_its_own_graph(bundle: Bundle, tmp_path: Path) -> None:
    newest = write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "new")
    older = write_device_folder(bundle, OnnxRuntimeKit((1, 18)), tmp_path / "old")
    assert newest.check.about["needs_onnxruntime"] == "1.23"
    assert older.check.about["needs_onnxruntime"] == "1.18"
    assert needed_version(onnx.load(older.path / "model.onnx").graph) == OLDEST
    assert older.check.graph_sha256 == newest.check.graph_sha256
    assert older.check.here == newest.check.here
    assert run.main(["--runs", "10"], older.path) == 0
    assert judge_outputs(bundle, older.path).passes


def test_from_the_bundle_to_the_device_and_back(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "mit leer ü" / "dev"
    written = invoke(
        "build", str(bundle.path), "--engine", "onnxruntime", "--for-device", str(folder)
    )
    assert written.exit_code == 0, written.output
    assert "64 check images and run.py, for numpy and onnxruntime 1.23 or newer" in written.stdout
    assert run.main(["--runs", "10"], folder) == 0
    lines = [line for line in written.stdout.splitlines() if "lrq-deploy" in line]
    validate, bench = (shlex.split(line)[1:] for line in lines)
    counts = ("--count", "4", "--reference-count", "1", "--quiet")
    valid = invoke(*validate, *counts, "--json")
    assert valid.exit_code == 0, valid.output
    rung = json.loads(valid.stdout)["rungs"][-1]
    assert (rung["name"], rung["parity"]["count"], rung["passes"]) == ("device", 64, True)
    assert "written on 64 of 64 images" in rung["remark"]
    timed = invoke(*bench, "--json", "--max-latency-ratio", "1e6")
    assert timed.exit_code == 0, timed.output
    document = json.loads(timed.stdout)
    outputs = json.loads((folder / "outputs.json").read_bytes())
    assert document["device"] == outputs["device"]
    (times,), (sent,) = document["batches"], outputs["batches"]
    assert (times["float_graph"], times["quantized"]) == (sent["float_graph"], sent["quantized"])
    assert document["options"]["runs"] == 10
    slow = invoke(*bench, "--max-latency-ratio", "1e-6", "--out", str(tmp_path / "figures"))
    assert isinstance(slow.exception, BoundError)
    assert "measured on the device: " in slow.stdout
    assert (tmp_path / "figures" / "bench.json").is_file()
    logits = logits_of(folder)
    for row in logits:
        row[2] += 0.01
    change(folder, logits=logits)
    changed = invoke(*validate, *counts)
    assert isinstance(changed.exception, ParityError)
    assert "NOT VALID: below the bound: ONNX Runtime on the device." in changed.stdout


def test_the_bound_is_that_of_the_fused_graph_here(bundle: Bundle, folder: Path) -> None:
    found = judge_outputs(bundle, folder)
    simulation = DeviceCheck.read(folder).simulation
    bound = with_ties_of(simulation, integer_bound(bundle.model()))
    assert (found.name, found.bound, found.passes) == ("device", bound, True)
    assert judge_outputs(bundle, folder / "outputs.json") == found
    logits = logits_of(folder)
    logits[5] = [-value for value in logits[5]]
    change(folder, logits=logits)
    found = judge_outputs(bundle, folder)
    assert not found.passes
    assert found.where == "the logits"
    assert "on 63 of 64 images" in found.remark


def test_an_answer_of_eight_bits_that_differs_does_not_pass(tmp_path: Path) -> None:
    bundle = made(tmp_path / "net", bits=8)
    folder = write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "dev").path
    assert run.main(["--runs", "10"], folder) == 0
    assert judge_outputs(bundle, folder).passes
    logits = logits_of(folder)
    logits[5][logits[5].index(max(logits[5]))] = -100.0
    change(folder, logits=logits)
    assert not judge_outputs(bundle, folder).passes


def test_rows_of_eight_bits_are_held_to_what_float32_keeps(tmp_path: Path) -> None:
    bundle = made(tmp_path / "net", bits=8)
    folder = write_device_folder(bundle, OnnxRuntimeKit(), tmp_path / "dev").path
    assert run.main(["--runs", "10"], folder) == 0
    change(folder, logits=[[1.001 * x for x in row] for row in logits_of(folder)])
    assert not judge_outputs(bundle, folder).passes
    expected = folder / "expected.json"
    check = json.loads(expected.read_bytes())
    check["simulation"]["same_rows"] = 0.0
    expected.write_text(json.dumps(check))
    change(folder, expected_sha256=FileRecord.of(expected.read_bytes()).sha256)
    assert judge_outputs(bundle, folder).passes


def test_what_a_device_is_called_steers_no_terminal(bundle: Bundle, folder: Path) -> None:
    device = json.loads((folder / "outputs.json").read_bytes())["device"]
    change(folder, device={**device, "cpu": "a\x1b[31m", "onnxruntime": "1\x07"})
    found = device_benchmark(bundle, folder)
    assert (found.cpu, found.runtime) == ("a?[31m", "onnxruntime 1?")
    assert found.device is not None
    assert found.device.describe().isprintable()
    assert judge_outputs(bundle, folder).remark.isprintable()


def test_float_sums_have_the_bound_of_the_simulation(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "float_operator", lambda model: "aten.softmax")
    simulation = DeviceCheck.read(folder).simulation
    assert judge_outputs(bundle, folder).bound == as_close_as(simulation)


def test_logits_that_are_not_finite_are_refused(bundle: Bundle, folder: Path) -> None:
    logits = logits_of(folder)
    logits[0][0] = float("nan")
    change(folder, logits=logits)
    with pytest.raises(ParityError, match="finite"):
        judge_outputs(bundle, folder)


TIMES = {"p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0}
NO_TIME = {"batch_size": 1, "float_graph": {**TIMES, "p50_ms": 0.0}, "quantized": TIMES}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version 1; got 2"),
        ({"producer": "else"}, "another producer"),
        ({"logits": [["a"]]}, "logits.0.0"),
        ({"logits": [[1.0]]}, "not 10 logits of each of 64 images"),
        ({"expected_sha256": "0" * 64}, "which is of another folder"),
        ({"batches": []}, "times that are none"),
        ({"batches": [NO_TIME]}, "times that are none"),
        ({"runs": 3}, "too few runs"),
        ({"device": {}}, "device.cpu"),
    ],
)
def test_other_outputs_are_refused(
    bundle: Bundle, folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, **changes)
    for read in (judge_outputs, device_benchmark):
        with pytest.raises(BundleError, match=message):
            read(bundle, folder)


def test_outputs_that_are_partial_or_missing_are_refused(bundle: Bundle, folder: Path) -> None:
    path = folder / "outputs.json"
    path.write_bytes(path.read_bytes()[:-20])
    for reason in ("JSONDecodeError", "FileNotFoundError"):
        for read in (judge_outputs, device_benchmark):
            with pytest.raises(BundleError, match=rf"what run\.py wrote, complete; .*{reason}"):
                read(bundle, folder)
        path.unlink(missing_ok=True)


def test_an_expectation_that_changed_since_is_refused(bundle: Bundle, folder: Path) -> None:
    path = folder / "expected.json"
    document = json.loads(path.read_bytes())
    document["logits"][0][0] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"or expected\.json has changed"):
        judge_outputs(bundle, folder)


def test_outputs_of_another_bundle_are_refused(folder: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", bits=5)
    for read in (judge_outputs, device_benchmark):
        with pytest.raises(BundleError, match=r"this bundle's model\.onnx"):
            read(other, folder)


def test_an_engine_of_a_device_has_no_float_times(bundle: Bundle, tmp_path: Path) -> None:
    kit = TrtexecKit(EngineOptions("tensorrt"))
    folder = write_device_folder(bundle, kit, tmp_path / "dev").path
    with pytest.raises(BundleError, match=r"bench needs what run\.py wrote"):
        device_benchmark(bundle, folder)


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ([], "--engine onnxruntime needs --for-device"),
        (["--onnxruntime", "1.18"], "--engine onnxruntime needs --for-device"),
        (["--for-device", "dev", "--preoptimize"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--sm", "86"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--batch", "8"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--workspace", "8"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--fp16-rest"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--out", "x"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--force"], "--engine onnxruntime takes"),
        (["--for-device", "dev", "--onnxruntime", "1.17"], "--onnxruntime must be 1.18 or later"),
    ],
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    rule: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("build", str(bundle.path), "--engine", "onnxruntime", *flags)
    assert isinstance(done.exception, OptionError)
    assert done.exception.rule.startswith(rule)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--float", "x.onnx"],
        ["--batch", "1"],
        ["--runs", "50"],
        ["--threads", "1"],
        ["--against-static", "x"],
        ["--engine", "x"],
        ["--require-engine"],
    ],
)
def test_nothing_is_measured_here_beside_a_device(
    bundle: Bundle, folder: Path, flags: list[str]
) -> None:
    done = invoke("bench", str(bundle.path), "--device-outputs", str(folder), *flags)
    assert isinstance(done.exception, OptionError)
    assert done.exception.received == f"it with {flags[0]}"
