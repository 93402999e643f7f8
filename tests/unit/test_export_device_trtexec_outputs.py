"""Outputs that came back from a device: what is judged, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.frozen_graphs import residual_student

from lrq_deploy.errors import BundleError, ParityError
from lrq_deploy.export.bundle.folder import Bundle, write_bundle
from lrq_deploy.export.device import trtexec_outputs
from lrq_deploy.export.device.folder import DeviceFolder, write_device_folder
from lrq_deploy.export.device.outputs import judge_outputs
from lrq_deploy.export.device.trtexec import TrtexecKit
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity import ladder
from lrq_deploy.export.parity.bounds import FLOAT_SUMS, as_close_as

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = residual_student(8, 8, blocks=(1,))
    graphs = {"model.tensorrt.onnx": to_onnx(model, "tensorrt").SerializeToString()}
    images = torch.rand(9, *model.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_bundle(tmp_path_factory.mktemp("b") / "net", model, graphs, images, 0, {}, {})


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> DeviceFolder:
    options = EngineOptions("tensorrt", batch=BatchProfile(1, 1, 32))
    return write_device_folder(bundle, TrtexecKit(options), tmp_path / "dev")


def written(folder: DeviceFolder, logits: torch.Tensor, digits: int = 6) -> Path:
    """Put ``outputs.json`` into the folder, as ``trtexec`` prints such logits."""
    path = folder.path / "outputs.json"
    runs = []
    for rows in logits.split(folder.check.images_per_file):
        values = ", ".join(f"{value:.{digits}g}" for value in rows.ravel().tolist())
        size = "x".join(str(n) for n in rows.shape)
        runs.append(
            f'[ {{ "name" : "logits", "dimensions" : "{size}", "values" : [ {values} ] }} ]'
        )
    path.write_text("\n".join(runs) + "\n")
    return path


def exact(folder: DeviceFolder) -> torch.Tensor:
    return torch.tensor(folder.check.logits)


def test_the_same_answers_pass(bundle: Bundle, folder: DeviceFolder) -> None:
    written(folder, exact(folder))
    found = judge_outputs(bundle, folder.path)
    assert (found.name, found.bound, found.passes) == ("device", FLOAT_SUMS, True)
    parity = found.parity
    assert parity is not None
    assert (parity.count, parity.same_top1, parity.same_rows) == (64, 1, 1)
    assert 0 < parity.max_diff < 1e-4
    assert parity.identical_rows < 1


def test_one_integer_that_differs_is_seen(bundle: Bundle, folder: DeviceFolder) -> None:
    step = folder.check.step
    assert step is not None
    logits = exact(folder)
    logits[5, 2] += step[2]
    written(folder, logits)
    found = judge_outputs(bundle, folder.path)
    assert found.parity is not None
    assert found.remark == ""
    assert found.parity.same_rows == 63 / 64
    assert found.where == "the logits"


def test_other_answers_do_not_pass(bundle: Bundle, folder: DeviceFolder) -> None:
    written(folder, -exact(folder))
    found = judge_outputs(bundle, folder.path)
    assert not found.passes
    assert found.parity is not None
    assert found.parity.same_top1 < 0.5


def test_too_few_digits_are_said(
    bundle: Bundle, folder: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trtexec_outputs, "_DIGITS", 3)
    written(folder, exact(folder), digits=3)
    found = judge_outputs(bundle, folder.path)
    assert "the 3 digits that trtexec prints do not tell its integers" in found.remark
    assert found.passes


def test_a_network_that_no_layer_ends_has_no_integers(bundle: Bundle, folder: DeviceFolder) -> None:
    (folder.path / "expected.json").write_bytes(replace(folder.check, step=None).to_bytes())
    written(folder, exact(folder))
    found = judge_outputs(bundle, folder.path)
    assert "no single layer ends the network" in found.remark
    assert found.parity is not None
    assert found.parity.same_rows == 1


def test_float_sums_have_the_bound_of_the_simulation(
    bundle: Bundle, folder: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = replace(folder.check.simulation, same_top1=0.9)
    check = replace(folder.check, simulation=simulation)
    (folder.path / "expected.json").write_bytes(check.to_bytes())
    monkeypatch.setattr(ladder, "float_operator", lambda model: "aten.softmax")
    written(folder, exact(folder))
    assert judge_outputs(bundle, folder.path).bound == as_close_as(simulation)


def test_logits_that_are_not_finite_are_refused(bundle: Bundle, folder: DeviceFolder) -> None:
    logits = exact(folder)
    logits[3, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    path = written(folder, logits)
    assert ": [ " in path.read_text()
    assert "nan, inf, -inf" in path.read_text()
    with pytest.raises(ParityError, match="finite"):
        judge_outputs(bundle, folder.path)


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("", "0 rows"),
        ("[1", "outputs.json"),
        ("3", "no tensor 'logits'"),
        ('[{"name": "other", "dimensions": "1x1", "values": [1]}]', "no tensor 'logits'"),
        ('[{"name": "logits", "dimensions": "2x2", "values": [1]}]', "1 values of '2x2'"),
        ('[{"name": "logits", "dimensions": "1x1", "values": [1]}]', r"1 rows of \[1\]"),
        ('[{"name": "logits", "dimensions": "1x0", "values": []}]', "outputs.json"),
        ('[{"name": "logits", "dimensions": null, "values": 3}]', "outputs.json"),
    ],
)
def test_damaged_outputs_are_refused(
    bundle: Bundle, folder: DeviceFolder, text: str, received: str
) -> None:
    (folder.path / "outputs.json").write_text(text)
    with pytest.raises(BundleError, match=received) as caught:
        judge_outputs(bundle, folder.path)
    assert "build.sh" in caught.value.remedy


def test_a_run_that_is_missing_is_refused(bundle: Bundle, folder: DeviceFolder) -> None:
    written(folder, exact(folder)[:32])
    with pytest.raises(BundleError, match=r"each of the 64 check images; got 32 rows"):
        judge_outputs(bundle, folder.path)


def test_missing_files_are_named(bundle: Bundle, folder: DeviceFolder, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"outputs\.json .*No such file"):
        judge_outputs(bundle, folder.path)
    alone = tmp_path / "outputs.json"
    written(folder, exact(folder)).rename(alone)
    with pytest.raises(BundleError, match=r"expected\.json .*No such file"):
        judge_outputs(bundle, alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1}, "schema_version 2; got 1"),
        ({"producer": "else"}, "another producer"),
        ({"logits": [["a"]]}, "logits.0.0"),
        ({"runtime": "other"}, "one of onnxruntime, tensorrt; got 'other'"),
        ({"logits": []}, "logits: rows"),
        ({"logits": [[1.0, 2.0], [1.0]]}, "logits: rows"),
        ({"step": [1.0]}, "logits: rows"),
    ],
)
def test_another_expectation_is_refused(
    bundle: Bundle, folder: DeviceFolder, changes: dict[str, object], message: str
) -> None:
    path = folder.path / "expected.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    with pytest.raises(BundleError, match=message):
        judge_outputs(bundle, folder.path)


def test_outputs_of_another_bundle_are_refused(
    bundle: Bundle, folder: DeviceFolder, tmp_path: Path
) -> None:
    model = residual_student(4, 4, blocks=(1,))
    graphs = {"model.tensorrt.onnx": to_onnx(model, "tensorrt").SerializeToString()}
    images = torch.zeros(1, *model.input_shape)
    other = write_bundle(tmp_path / "other", model, graphs, images, 0, {}, {})
    written(folder, exact(folder))
    with pytest.raises(BundleError, match=r"this bundle's model\.tensorrt\.onnx"):
        judge_outputs(other, folder.path)
