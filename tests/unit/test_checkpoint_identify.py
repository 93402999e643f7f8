"""What a file is, from its content."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.torch import save_file

from lrq_deploy.checkpoint.identify import identify
from lrq_deploy.errors import CheckpointError, LrqError

pytestmark = pytest.mark.unit

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}


def _saved(path: Path, **settings: bool) -> Path:
    torch.save(TENSORS, path, **settings)
    return path


@pytest.mark.parametrize(
    ("legacy", "kind"), [(False, "torch-zip"), (True, "torch-legacy")], ids=["zip", "legacy"]
)
def test_torch_files_are_told_whatever_the_suffix(tmp_path: Path, legacy: bool, kind: str) -> None:
    path = _saved(tmp_path / "weights.onnx", _use_new_zipfile_serialization=not legacy)
    found = identify(path)
    assert (found.kind, found.size_bytes) == (kind, path.stat().st_size)


def test_safetensors_are_told(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "weights.pt")
    assert identify(tmp_path / "weights.pt").kind == "safetensors"


def _write_text(path: Path) -> None:
    path.write_text("conv1.weight: 0.25\nnot a checkpoint, é\n")


def _write_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n")


def _write_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html>\n<html><body>404 not found</body></html>\n")


def _write_hdf5(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(4000))


def _write_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def _write_old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps([1.5, "x"], protocol=0))


def _write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("storages")
        archive.addfile(info, io.BytesIO())


def _write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _write_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/constants.pkl", b"\x80\x02).")
        archive.writestr("net/code/__torch__/net.py", "")


def _write_onnx(path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [value], [output])), path)


def _write_random(path: Path) -> None:
    path.write_bytes(bytes(range(255, 155, -1)))


def _write_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_write_text, "text file"),
        (_write_lfs_pointer, "Git LFS pointer"),
        (_write_page, "HTML page"),
        (_write_hdf5, "HDF5 file, as Keras writes"),
        (_write_plain_pickle, "plain pickle"),
        (_write_old_pickle, "plain pickle"),
        (_write_tar, "tar archive"),
        (_write_zip, "zip archive that PyTorch did not write"),
        (_write_torchscript, "TorchScript archive of torch before 1.4"),
        (_write_onnx, "ONNX"),
        (_write_random, "unknown format"),
        (_write_empty, "empty file"),
        (Path.mkdir, "directory"),
        (Path.exists, "no file"),
    ],
)
def test_every_other_kind_is_refused_by_its_name(tmp_path: Path, write, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(CheckpointError, match=said):
        identify(path)


def test_truncated_files_are_told_from_foreign_ones(tmp_path: Path) -> None:
    whole = _saved(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) * 2 // 3])
    save_file(TENSORS, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-5])
    for name in ("cut.pt", "cut.safetensors"):
        with pytest.raises(CheckpointError, match="must be complete"):
            identify(tmp_path / name)


def test_a_zip_bomb_and_twin_entries_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/data/0", bytes(8_000_000))
    with pytest.raises(CheckpointError, match="expand"):
        identify(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "twins.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}.")
        archive.writestr("m/DATA.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="two entries of one name"):
        identify(tmp_path / "twins.pt")


def test_an_archive_that_two_readers_see_differently_is_refused(tmp_path: Path) -> None:
    whole = _saved(tmp_path / "whole.pt").read_bytes()
    # Python finds the directory of the second archive, torch that of the first.
    (tmp_path / "two.pt").write_bytes(whole + whole)
    with pytest.raises(CheckpointError, match="begin with its first entry"):
        identify(tmp_path / "two.pt")


def test_an_offset_that_no_number_holds_is_damage(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match="damaged header"):
        identify(tmp_path / "a.safetensors")


HEADS = (
    b"",
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x08\x07",
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from(HEADS), body=st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_a_stated_error(
    tmp_path: Path, head: bytes, body: bytes
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(head + body)
    try:
        found = identify(path)
    except LrqError:
        return
    assert found.size_bytes == len(head) + len(body)
