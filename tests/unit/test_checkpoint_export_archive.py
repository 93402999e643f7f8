"""Export archives: real ones load, and nothing in a hostile one runs."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrq_deploy.checkpoint.export_archive import read_export_archive
from lrq_deploy.checkpoint.export_document import check_document
from lrq_deploy.checkpoint.identify import identify
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit

Edit = Callable[[str, bytes, Path], bytes]


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)
        self.offset = torch.full((5,), 0.25)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc(pooled.view(x.shape[0], 4)) + self.offset  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return _Network().eval()


@pytest.fixture(scope="module")
def archive(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        network, (torch.zeros(2, 3, 9, 9),), dynamic_shapes={"x": {0: batch}}
    )
    path = tmp_path_factory.mktemp("archive") / "model.pt2"
    torch.export.save(program, path)
    return path.rename(path.with_suffix(".pt"))


def _edited(source: Path, target: Path, edit: Edit) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, edit(entry.filename, old.read(entry), target.parent))
    return target


def test_an_archive_loads_under_any_name(archive: Path, network: nn.Module) -> None:
    found = identify(archive)
    assert found.kind == "export-archive"
    program = read_export_archive(found)
    images = torch.randn(3, 3, 9, 9)
    assert torch.equal(program.module()(images), network(images))


def test_the_layout_of_torch_2_7_loads(archive: Path, network: nn.Module, tmp_path: Path) -> None:
    serde = pytest.importorskip("torch._export.serde.serialize")
    schema = pytest.importorskip("torch._export.serde.schema")
    program = read_export_archive(identify(archive))
    parts = serde.serialize(program)
    with zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        new.writestr("serialized_exported_program.json", parts.exported_program)
        new.writestr("serialized_state_dict.pt", parts.state_dict)
        new.writestr("serialized_constants.pt", parts.constants)
        new.writestr("serialized_example_inputs.pt", parts.example_inputs)
        new.writestr("version", ".".join(str(n) for n in schema.SCHEMA_VERSION))
    found = identify(tmp_path / "old.pt")
    assert (found.kind, found.root) == ("export-archive", "")
    images = torch.randn(2, 3, 9, 9)
    assert torch.equal(read_export_archive(found).module()(images), network(images))


def test_devices_become_the_cpu(archive: Path, tmp_path: Path) -> None:
    def on_gpu(name: str, data: bytes, folder: Path) -> bytes:
        return data.replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')

    program = read_export_archive(identify(_edited(archive, tmp_path / "gpu.pt", on_gpu)))
    assert {t.device.type for t in program.state_dict.values()} == {"cpu"}


def _hostile_json(change: Callable[[dict[str, Any], str], None]) -> Edit:
    def edit(name: str, data: bytes, folder: Path) -> bytes:
        if "/models/" not in name:
            return data
        document = json.loads(data)
        change(document, f"__import__('os').system('touch {folder}/executed')")
        return json.dumps(document).encode()

    return edit


def _size(document: dict[str, Any], code: str) -> None:
    sizes = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = code


def _size_name(document: dict[str, Any], code: str) -> None:
    document["range_constraints"][code] = {"min_val": 0, "max_val": 9}


def _operator(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _loader(document: dict[str, Any], code: str) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.load_library"


def _structure(document: dict[str, Any], code: str) -> None:
    context = {"default_factory_module": "this", "default_factory_name": "x", "dict_context": []}
    inner = {"type": "collections.defaultdict", "context": json.dumps(context)}
    spec = [1, {**inner, "children_spec": []}]
    calls = document["graph_module"]["module_call_graph"]
    calls[0]["signature"]["in_spec"] = json.dumps(spec)


class _Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.folder}/executed",)


def _pickled(folder: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((_Bomb(folder),), buffer)
    return buffer.getvalue()


def _pickled_weight(name: str, data: bytes, folder: Path) -> bytes:
    if name.endswith("model_weights_config.json"):
        return data.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    return _pickled(folder) if name.endswith("/weight_0") else data


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_hostile_json(_size), "size expression"),
        (_hostile_json(_size_name), "size name"),
        (_hostile_json(_operator), r"torch\.os\.system"),
        (_hostile_json(_loader), "load_library"),
        (_hostile_json(_structure), "structure"),
        (_pickled_weight, "pickled tensor"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_runs(
    archive: Path, tmp_path: Path, edit: Edit, said: str
) -> None:
    path = _edited(archive, tmp_path / "model.pt", edit)
    with pytest.raises(CheckpointError, match=said):
        read_export_archive(identify(path))
    assert not (tmp_path / "executed").exists()


def test_pickled_inputs_and_guards_are_left_out(archive: Path, tmp_path: Path) -> None:
    def edit(name: str, data: bytes, folder: Path) -> bytes:
        if "/sample_inputs/" in name:
            return _pickled(folder)
        guard = f"__import__('os').system('touch {folder}/executed') == 0"
        return _hostile_json(lambda d, _: d.update(guards_code=[guard]))(name, data, folder)

    program = read_export_archive(identify(_edited(archive, tmp_path / "model.pt", edit)))
    program.module()(torch.zeros(2, 3, 9, 9))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/model.so",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "models/Model.xson",
        "DATA/WEIGHTS/model.PT",
    ],
)
def test_entries_that_may_hold_code_are_refused(archive: Path, tmp_path: Path, name: str) -> None:
    path = _edited(archive, tmp_path / "model.pt", lambda _, data, __: data)
    with zipfile.ZipFile(path, "a") as new:
        root = new.namelist()[0].split("/")[0]
        new.writestr(f"{root}/{name}", _pickled(tmp_path))
    with pytest.raises(CheckpointError):
        read_export_archive(identify(path))
    assert not (tmp_path / "executed").exists()


def test_two_roots_are_refused(archive: Path, tmp_path: Path) -> None:
    path = _edited(archive, tmp_path / "model.pt", lambda _, data, __: data)
    with zipfile.ZipFile(path, "a") as new:
        new.writestr("other/models/model.json", "{}")
    with pytest.raises(CheckpointError, match="more than one root"):
        identify(path)


def test_a_trusted_archive_keeps_its_inputs(archive: Path) -> None:
    assert read_export_archive(identify(archive), trust_pickle=True).example_inputs is not None


def test_half_precision_and_nan_are_refused(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 9, 9)
    network = _Network().eval()
    network.offset[3] = torch.nan
    torch.export.save(torch.export.export(network, (images,)), tmp_path / "a.pt2")
    with pytest.raises(CheckpointError, match=r"NaN or Inf in 1 of.*offset"):
        read_export_archive(identify(tmp_path / "a.pt2"))
    half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).half().eval()
    torch.export.save(torch.export.export(half, (images.half(),)), tmp_path / "c.pt2")
    with pytest.raises(CheckpointError, match=r"float32.*float16"):
        read_export_archive(identify(tmp_path / "c.pt2"))


def test_a_damaged_graph_is_a_stated_error(archive: Path, tmp_path: Path) -> None:
    def cut(name: str, data: bytes, folder: Path) -> bytes:
        return data[:-40] if "/models/" in name else data

    with pytest.raises(CheckpointError, match="valid JSON"):
        read_export_archive(identify(_edited(archive, tmp_path / "a.pt", cut)))

    def emptied(document: dict[str, Any], _: str) -> None:
        del document["graph_module"]["graph"]["inputs"]

    path = _edited(archive, tmp_path / "b.pt", _hostile_json(emptied))
    with pytest.raises(CheckpointError, match="must load with torch"):
        read_export_archive(identify(path))


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Symbol('s0', integer=True), Integer(-1))",
        "FloorDiv(s0 + 1, 2)*3",
        "Eq(Mod(s0, 2), 0)",
    ],
)
def test_sizes_that_torch_writes(text: str) -> None:
    assert check_document({"expr_str": text}) == ""


@pytest.mark.parametrize(
    "text",
    ["().__class__", "Symbol('a b')", "exec('x')", "9**9**9", "Symbol('x').name", "(lambda: 1)()"],
)
def test_sizes_that_only_code_needs(text: str) -> None:
    assert check_document([{"expr_str": text}])


@pytest.mark.parametrize(
    ("target", "known"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("torch.ops.aten.__and__.Tensor", True),
        ("torch.ops.aten._to_copy.default", True),
        ("_operator.getitem", True),
        ("torch.ops.aten.__class__.mro", False),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.aten.conv2d.__class__", False),
        ("_operator.attrgetter", False),
        ("math.sys", False),
        ("torch.hub.load", False),
    ],
)
def test_operators(target: str, known: bool) -> None:
    assert (check_document({"nodes": [{"target": target}]}) == "") is known
