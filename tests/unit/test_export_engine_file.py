"""Engine files: whole, recorded, and refused where they do not belong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bundles import bundle_of
from support.frozen_graphs import residual_student
from support.small_disk import largest_file

from lrq_deploy.durable import write_atomically
from lrq_deploy.errors import BundleError, OutputError, WriteError
from lrq_deploy.export.bundle.folder import Bundle, load_bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.engine import file as engine_file
from lrq_deploy.export.engine.file import (
    ENGINE_SCHEMA,
    EngineRecord,
    check_engine_output,
    check_runtime,
    read_engine,
    sidecar_of,
    write_engine,
)

pytestmark = pytest.mark.unit

DATA = b"not a real engine, but its bytes are hashed like one"
RECORD = EngineRecord(
    engine=FileRecord.of(DATA),
    graph_sha256="ab" * 32,
    network="net",
    scheme="W4A4, edge 8",
    kind="tensorrt-rtx",
    versions={"lrq-deploy": "0.1.0", "tensorrt-rtx": "1.7.1"},
    compute_capabilities=(86, 89),
    batch=(1, 1, 8),
    input_shape=(3, 32, 32),
    workspace_mib=None,
    fp16_rest=False,
    audit={"integer_share": 1.0},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path / "net")


@pytest.fixture
def engine(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "engines" / "net.engine"
    path.parent.mkdir()
    write_engine(path, DATA, RECORD, bundle)
    return path


def test_what_is_written_is_read(engine: Path) -> None:
    assert {path.name for path in engine.parent.iterdir()} == {"net.engine", "net.engine.json"}
    assert read_engine(engine) == (DATA, RECORD)
    assert read_engine(engine, "tensorrt-rtx", "ab" * 32)[1] == RECORD
    check_runtime(RECORD, "1.7.1", 89)


@pytest.mark.parametrize(
    ("expected", "what"),
    [
        ({"kind": "tensorrt"}, "the runtime"),
        ({"graph_sha256": "cd" * 32}, "the bundle's model.tensorrt.onnx"),
    ],
)
def test_a_mismatch_is_refused(engine: Path, expected: dict[str, Any], what: str) -> None:
    with pytest.raises(BundleError, match=what):
        read_engine(engine, **expected)


@pytest.mark.parametrize(
    ("version", "gpu", "what"),
    [
        ("1.8.0", 89, "version of tensorrt-rtx"),
        ("1.7.1", 120, r"the GPU; got .*for 86,89, but 120 here; .*--sm 120"),
    ],
)
def test_another_runtime_or_gpu_is_refused(version: str, gpu: int, what: str) -> None:
    with pytest.raises(BundleError, match=what):
        check_runtime(RECORD, version, gpu)


def test_the_gpu_that_built_an_engine_is_recorded(bundle: Bundle, tmp_path: Path) -> None:
    versions = {"tensorrt": "11.4", "cuda": "13.2", "driver": "595.1"}
    record = replace(RECORD, kind="tensorrt", versions=versions, compute_capabilities=(86,))
    record = replace(record, gpu="NVIDIA A10", tf32=False)
    path = tmp_path / "x.engine"
    write_engine(path, DATA, record, bundle)
    document = json.loads(sidecar_of(path).read_bytes())
    assert document["schema_version"] == ENGINE_SCHEMA == 3
    assert (document["gpu"], document["versions"]["cuda"]) == ("NVIDIA A10", "13.2")
    assert read_engine(path, "tensorrt")[1] == record
    check_runtime(record, "11.4", 86)
    with pytest.raises(BundleError, match=r"the GPU; got .*for 86, but 89 here; .*on this machine"):
        check_runtime(record, "11.4", 89)


def test_a_changed_engine_is_refused(engine: Path) -> None:
    engine.write_bytes(DATA[:-1])
    with pytest.raises(BundleError, match="its record's hash"):
        read_engine(engine)


def test_a_missing_file_is_refused(engine: Path) -> None:
    with pytest.raises(BundleError, match="readable"):
        read_engine(engine.with_name("other.engine"))
    sidecar_of(engine).unlink()
    with pytest.raises(BundleError, match="record beside it"):
        read_engine(engine)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 99},
        {"producer": "else"},
        {"batch": None},
        {"batch": [1, 8]},
        {"versions": None},
        {"kind": 5},
        {"kind": "another"},
        {"gpu": None},
        {"engine": {"sha256": None, "size_bytes": 3}},
    ],
)
def test_another_record_is_refused(engine: Path, change: dict[str, Any]) -> None:
    document = json.loads(sidecar_of(engine).read_bytes())
    sidecar_of(engine).write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(BundleError, match="record"):
        read_engine(engine)


def test_a_record_that_is_nested_too_deeply_is_refused(engine: Path) -> None:
    sidecar_of(engine).write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(BundleError, match="RecursionError"):
        read_engine(engine)


def test_nothing_is_overwritten_without_force(bundle: Bundle, engine: Path) -> None:
    with pytest.raises(OutputError, match="must not exist"):
        write_engine(engine, b"other", RECORD, bundle)
    assert engine.read_bytes() == DATA
    write_engine(engine, b"other", RECORD, bundle, force=True)
    assert engine.read_bytes() == b"other"


def test_the_place_is_checked_before_anything_is_built(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can be written"):
        check_engine_output(tmp_path / "missing" / "x.engine", bundle, force=False)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="must be a file"):
        check_engine_output(tmp_path / "folder", bundle, force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "net"}


@pytest.mark.parametrize("name", ["model.onnx", "manifest"])
@pytest.mark.parametrize("force", [False, True])
def test_neither_an_engine_nor_its_record_is_a_file_of_the_bundle(
    bundle: Bundle, name: str, force: bool
) -> None:
    with pytest.raises(OutputError, match="must not be a file of the bundle"):
        write_engine(bundle.path / name, DATA, RECORD, bundle, force)
    load_bundle(bundle.path)


def test_a_full_disk_leaves_the_engine_of_before_and_its_record(
    bundle: Bundle, engine: Path
) -> None:
    large = bytes(100_000)
    record = replace(RECORD, engine=FileRecord.of(large))
    with largest_file(50_000), pytest.raises(WriteError, match="written completely"):
        write_engine(engine, large, record, bundle, force=True)
    assert read_engine(engine) == (DATA, RECORD)
    assert {path.name for path in engine.parent.iterdir()} == {"net.engine", "net.engine.json"}


def test_a_new_engine_whose_record_was_not_written_is_refused(
    bundle: Bundle, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut between the two."""

    def engine_alone(path: Path, data: bytes) -> None:
        if path != engine:
            raise KeyboardInterrupt
        write_atomically(path, data)

    monkeypatch.setattr(engine_file, "write_atomically", engine_alone)
    with pytest.raises(KeyboardInterrupt):
        write_engine(engine, b"new", replace(RECORD, engine=FileRecord.of(b"new")), bundle, True)
    assert engine.read_bytes() == b"new"
    with pytest.raises(BundleError, match="its record's hash"):
        read_engine(engine)
