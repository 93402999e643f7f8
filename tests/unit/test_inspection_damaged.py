"""Damaged and hostile files: a stated error, nothing executed, and no escapes on a terminal."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.architecture_index import keep_indexes
from support.checkpoints import KINDS, write_changed
from support.model_files import small_network, write_onnx

from lrq_deploy.cli.reports.inspect import print_inspection
from lrq_deploy.errors import CheckpointError, LrqError
from lrq_deploy.inspection.advice import advise
from lrq_deploy.inspection.inspect import inspect_model
from lrq_deploy.inspection.outline import TensorOutline
from lrq_deploy.inspection.stand_ins import unpickle_outlines

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_indexes(tmp_path / "cache", monkeypatch)


def _write_text(path: Path) -> None:
    path.write_text("weights")


def _write_no_tensors(path: Path) -> None:
    torch.save({"epoch": 3}, path)


def _write_half(path: Path) -> None:
    torch.save(small_network().state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _write_half_onnx(path: Path) -> None:
    write_onnx(path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (Path.exists, "no file"),
        (Path.mkdir, "directory"),
        (_write_text, "text file"),
        (_write_no_tensors, "named tensors"),
        (lambda path: torch.save(torch.zeros(3), path), "one tensor instead of a mapping"),
        (_write_half, "must be complete"),
        (_write_half_onnx, "."),
    ],
)
def test_refusals(tmp_path: Path, write: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(CheckpointError, match=said):
        inspect_model(path)


def test_a_name_that_is_too_long_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the model must be a readable file"):
        inspect_model(tmp_path / ("n" * 300))


@pytest.mark.parametrize("shape", ["1e400", f"{2**62},4", "9" * 4000])
def test_sides_that_no_tensor_has_are_refused(tmp_path: Path, shape: str) -> None:
    header = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'.encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match="shape and a dtype"):
        inspect_model(path)


def test_what_a_file_calls_things_reaches_no_terminal(tmp_path: Path) -> None:
    red = "\x1b[31m"
    weights = {f"{red}{name}": value for name, value in small_network().state_dict().items()}
    torch.save({f"{red}net": weights, "epoch": -(10**5000), red: red}, tmp_path / "c.pt")
    header = f'{{"{red}":{{"dtype":"{red}","shape":[1],"data_offsets":[0,4]}}}}'
    header = header.replace("\x1b", "\\u001b")
    (tmp_path / "a.pt").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    write_onnx(tmp_path / "o.pt")
    graph = onnx.load(tmp_path / "o.pt")
    graph.graph.node[0].op_type = red
    (tmp_path / "o.pt").write_bytes(graph.SerializeToString())
    for name in ("c.pt", "a.pt", "o.pt"):
        shown = io.StringIO()
        print_inspection(Console(file=shown, width=100), inspect_model(tmp_path / name), True)
        assert "[31m" in shown.getvalue()
        assert "\x1b" not in shown.getvalue()


def test_a_file_sets_attributes_of_stand_ins_alone(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        data = archive.read("c/data.pkl")
    built = data.removesuffix(b"s.") + b"}(X\x05\x00\x00\x00shapeX\x01\x00\x00\x00xubs."
    content, _ = unpickle_outlines(built)
    assert content == {"a.weight": TensorOutline((2,), "float32")}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_changed_bytes_give_an_inspection_or_a_stated_error(
    tmp_path: Path, data: st.DataObject, kind: str
) -> None:
    path = tmp_path / "c.pt"
    write_changed(path, small_network().state_dict(), kind, data)
    try:
        advise(inspect_model(path))
    except LrqError:
        return
