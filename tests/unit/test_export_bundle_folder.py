"""Bundles: round trip, atomicity, refusals."""

import dataclasses
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.frozen_graphs import mobile_student, residual_student
from torch import Tensor

from lrq_deploy.errors import BundleError, OutputError
from lrq_deploy.export.bundle import output_directory
from lrq_deploy.export.bundle.folder import Bundle, check_output, load_bundle, write_bundle
from lrq_deploy.export.bundle.manifest import MANIFEST_SCHEMA
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def images(model: QuantizedModel, count: int = 5) -> Tensor:
    return torch.randn(count, *model.input_shape, generator=torch.Generator().manual_seed(3))


def write(out: Path, model: QuantizedModel | None = None, **changes: Any) -> Bundle:
    model = model or residual_student(4, 4, blocks=(1, 1))
    arguments: dict[str, Any] = {
        "graphs": {"model.onnx": b"graph"},
        "synthetic": images(model),
        "seed": 7,
        "options": {"recipe": "fast"},
        "metrics": {"parity": {"same_top1": 1.0}},
        "created": NOON,
        **changes,
    }
    return write_bundle(out, model, **arguments)


@pytest.mark.parametrize("make", [residual_student, mobile_student])
def test_round_trip_gives_identical_logits(tmp_path: Path, make: Any) -> None:
    model = make()
    write(tmp_path / "out", model)
    again = load_bundle(tmp_path / "out").model()
    x = images(model)
    assert torch.equal(again.logits(x), model.logits(x))
    for field in ("scheme", "input_shape", "num_classes", "preprocessing", "name"):
        assert getattr(again, field) == getattr(model, field)
    assert list(again.layers()) == list(model.layers())
    assert again.table.to_json() == model.table.to_json()
    assert again.table.tensors().keys() == model.table.tensors().keys()


def test_a_student_that_divides_by_the_deviation_of_an_image_is_read(tmp_path: Path) -> None:
    model = residual_student(4, 4, blocks=(1,))
    graph = model.graph.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        spread = graph.call_function(torch.ops.aten.std.correction, (image, [1, 2, 3]))
        spread.kwargs = {"keepdim": True}
    with graph.inserting_after(spread):
        scaled = graph.call_function(torch.ops.aten.div.Tensor, (image, spread))
    image.replace_all_uses_with(scaled, lambda user: user not in (spread, scaled))
    model.graph.recompile()
    x = images(model)
    assert torch.equal(write(tmp_path / "out", model).model().logits(x), model.logits(x))


def test_a_student_is_read_whatever_new_tensors_are(tmp_path: Path) -> None:
    model = residual_student(4, 4, blocks=(1, 1))
    bundle = write(tmp_path / "out", model)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            again = bundle.model()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again.logits(images(model)), model.logits(images(model)))


def test_a_rebuilt_student_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "a", mobile_student())
    second = write(tmp_path / "b", load_bundle(tmp_path / "a").model())
    assert first.manifest == dataclasses.replace(second.manifest)
    for name in [*first.manifest.files, "manifest.json"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_manifest_states_everything(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "out")
    document = json.loads((tmp_path / "deep" / "out" / "manifest.json").read_text())
    assert document["schema_version"] == MANIFEST_SCHEMA
    assert document["created"] == "2026-01-01T12:00:00+00:00"
    assert document["seed"] == 7
    assert document["scheme"]["weight_bits"] == 4
    stated, here = (v.split("+")[0] for v in (document["versions"]["torch"], torch.__version__))
    assert stated == here
    names = {"model.onnx", "student.safetensors", "synthetic.png", "classify.py"}
    assert set(document["files"]) == names
    assert sorted(os.listdir(tmp_path / "deep")) == ["out"]


def test_only_the_time_differs_between_equal_runs(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b", created=None)
    assert first.manifest.created != second.manifest.created
    later = dataclasses.replace(second.manifest, created=first.manifest.created)
    assert later == first.manifest


@pytest.mark.parametrize("name", ["model.onnx", "student.safetensors", "synthetic.png"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "out")
    data = bytearray((tmp_path / "out" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=name):
        load_bundle(tmp_path / "out")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "synthetic.png").unlink()
    with pytest.raises(BundleError, match=r"synthetic\.png"):
        load_bundle(tmp_path / "out")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_pipe_or_a_device_is_not_read(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    write(out)
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (out / name).unlink()
        make(out / name)
        with pytest.raises(BundleError, match="it is no regular file"):
            load_bundle(out)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"producer": "someone else"},
        {"files": None},
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError):
        load_bundle(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_broken_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(tmp_path)


def test_a_manifest_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BundleError, match="RecursionError"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_shape", [3, 16]),
        ("input_shape", "abc"),
        ("input_shape", [None, 16, 16]),
        ("input_shape", [3, 0, 16]),
        ("name", 5),
        ("scheme", [1]),
        ("versions", None),
        ("num_classes", "10"),
        ("class_names", [1]),
        ("class_names", ["a"]),
        ("files", {"model.onnx": {"sha256": 1, "size_bytes": 2}}),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    write(tmp_path / "out")
    change(tmp_path / "out", **{name: value})
    with pytest.raises(BundleError, match=rf"written by lrq-deploy.*\({name}[.:]"):
        load_bundle(tmp_path / "out")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "", ".."])
def test_what_is_no_name_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "out")
    files = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    change(tmp_path / "out", files={**files, name: files["model.onnx"]})
    expected = "Invalid JSON" if name == "\ud800" else "every file of the manifest must be there"
    with pytest.raises(BundleError, match=expected):
        load_bundle(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheme", {"weight_bits": 8}),
        ("scheme", {"of_the_future": 1}),
        ("input_shape", [3, 8, 9]),
        ("preprocessing", {"resize": 99}),
        ("num_classes", 7),
        ("name", "other"),
        ("teacher_fingerprint", "other"),
    ],
)
def test_a_student_of_another_manifest_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    opened = write(tmp_path / "out")
    stated = getattr(opened.manifest, name)
    change(tmp_path / "out", **{name: {**stated, **value} if isinstance(value, dict) else value})
    bundle = load_bundle(tmp_path / "out")
    with pytest.raises(BundleError, match=f"got one with another {name}"):
        bundle.model()


def _rewired(document: dict[str, Any]) -> None:
    document["graph"]["nodes"][-2]["args"]["tuple"] = []


def _stretched(document: dict[str, Any]) -> None:
    next(iter(document["layers"].values()))["dilation"] = [1]


@pytest.mark.parametrize(
    "edit",
    [
        _rewired,
        _stretched,
        lambda d: next(iter(d["layers"].values())).update(groups=-1),
        lambda d: next(iter(d["layers"].values())).update(input_quantizer="nobody"),
        lambda d: d.update(scheme=5),
        lambda d: d.update(table={**d["table"], "entries": []}),
    ],
)
def test_a_student_whose_parts_do_not_fit_together_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    bundle = write(tmp_path / "out")
    path = bundle.path / "student.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["lrq_student"])
    edit(document)
    save_file(tensors, path, {"lrq_student": json.dumps(document)})
    with pytest.raises(BundleError, match="must hold a student of lrq-deploy"):
        bundle.model()


def test_an_older_manifest_says_less_of_the_student(tmp_path: Path) -> None:
    scheme = dict(write(tmp_path / "out").manifest.scheme)
    del scheme["layer_bits"]
    change(tmp_path / "out", scheme=scheme, schema_version=1)
    assert load_bundle(tmp_path / "out").model().scheme.layer_bits == ()


def test_the_documented_call_names_the_bundle_by_a_string(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "digits-w4a4")
    monkeypatch.chdir(tmp_path)
    assert load_bundle("digits-w4a4").path == Path("digits-w4a4")
    with pytest.raises(BundleError, match="lrq-deploy quantize"):
        load_bundle("none")


@pytest.mark.parametrize(
    ("place", "name"),
    [(".", ".."), ("out", "."), ("out/sub", ".."), ("out/sub", "../../out"), ("link", "..")],
)
def test_what_lies_beside_a_bundle_is_never_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    bundle = write(tmp_path / "out")
    (tmp_path / "out" / "sub").mkdir()
    (tmp_path / "link").symlink_to("out/sub")
    monkeypatch.chdir(tmp_path / place)
    if place == ".":
        name = "link/.."
    found = dataclasses.replace(bundle, path=Path(name)).beside(".engine")
    assert found == tmp_path / "out.engine"


def change(bundle: Path, **values: Any) -> None:
    """State other values in the manifest of a bundle."""
    path = bundle / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    write(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["../stolen"] = document["files"].pop("model.onnx")
    path.write_text(json.dumps(document))
    with pytest.raises(BundleError, match="stolen"):
        load_bundle(tmp_path / "out")


def test_no_directory_and_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="lrq-deploy quantize"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"engine\.plan"):
        write(tmp_path / "out").file("engine.plan")


def test_an_existing_bundle_is_kept_without_force(tmp_path: Path) -> None:
    first = write(tmp_path / "out")
    with pytest.raises(OutputError, match="--force"):
        write(tmp_path / "out", seed=8)
    assert load_bundle(tmp_path / "out") == first


def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    write(tmp_path / "out")
    write(tmp_path / "out", seed=8, force=True, graphs={"other.onnx": b"x"})
    assert load_bundle(tmp_path / "out").manifest.seed == 8
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("bundle_first", [False, True])
def test_force_never_deletes_other_things(tmp_path: Path, bundle_first: bool) -> None:
    out = tmp_path / "out"
    if bundle_first:
        write(out)
    out.mkdir(exist_ok=True)
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        write(out, force=True)
    assert (out / "thesis.tex").read_text() == "dear"


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert load_bundle(tmp_path / "out").manifest.seed == 7


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError):
            check_output(out, force=True)


def test_a_read_only_parent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may write everywhere, so the answer of the system is replaced, not the permission.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="can be written"):
        check_output(tmp_path / "out", force=False)


def test_check_output_writes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b", force=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_writing_leaves_no_half_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, error: BaseException
) -> None:
    if existing:
        write(tmp_path / "out")
    real = output_directory._write

    def fail_at_the_manifest(path: Path, data: bytes) -> None:
        if path.name == "manifest.json":
            raise error
        real(path, data)

    monkeypatch.setattr(output_directory, "_write", fail_at_the_manifest)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write(tmp_path / "out", seed=8, force=existing)
    assert os.listdir(tmp_path) == (["out"] if existing else [])
    if existing:
        assert load_bundle(tmp_path / "out").manifest.seed == 7
