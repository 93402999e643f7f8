"""What a model file is, told from its content and never from its suffix."""

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from lrq_deploy.checkpoint.pickle_globals import is_plain_pickle
from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError

__all__ = ["CheckpointFile", "FileKind", "identify", "is_onnx"]

FileKind = Literal["torch-zip", "torch-legacy", "safetensors", "export-archive", "torchscript"]

# torch.serialization.MAGIC_NUMBER as the LONG1 payload that opens a file of torch < 1.6.
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
_HEAD_BYTES = 4096
_SAFETENSORS_HEADER_MAX = 100_000_000
_ZIP_EXPANSION_MAX = 16
_USE_STATE_DICT = "pass a state dict saved with torch.save(model.state_dict(), path)"


@dataclass(frozen=True)
class CheckpointFile:
    """A file that can be read, and how.

    Attributes:
        path: the file.
        kind: its format.
        size_bytes: its length.
        root: folder inside a zip archive that holds all entries; empty for other kinds and
            for export archives of torch before 2.8.
        compressed: true where an entry of a zip archive is not stored plainly, which rules
            out mapping it into memory.
    """

    path: Path
    kind: FileKind
    size_bytes: int
    root: str = ""
    compressed: bool = False


def identify(path: Path) -> CheckpointFile:
    """Tell the format of ``path``; nothing of it is executed or unpickled.

    Raises:
        CheckpointError: it is missing, a directory, unreadable, empty, truncated, or of a
            format that carries no weights this project can read.
    """
    size, head = _read_head(path)
    if head.startswith(b"PK\x03\x04"):
        return _identify_zip(path, size)
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32]:
        return CheckpointFile(path, "torch-legacy", size)
    if _looks_like_safetensors(head):
        _check_safetensors(path, size)
        return CheckpointFile(path, "safetensors", size)
    raise _not_readable(path, head, size)


def _read_head(path: Path) -> tuple[int, bytes]:
    rule = "the model must be a readable file"
    try:
        if path.is_dir():
            raise CheckpointError(rule, f"the directory {path}", "pass a file inside it")
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        size = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(rule, f"no file at {path}", "check the path") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(rule, f"{path}: {error}", "check the path and its rights") from None
    if not head:
        raise CheckpointError(
            "the model must hold weights", f"the empty file {path}", "save or download it again"
        )
    return size, head


def _identify_zip(path: Path, size: int) -> CheckpointFile:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (*ZIP_DAMAGE, ValueError, struct.error):
        raise _truncated(path, "a zip archive without its directory at the end") from None
    names = {entry.filename for entry in entries}
    if len({name.casefold() for name in names}) != len(entries):
        raise CheckpointError(
            "an archive must not hold two entries of one name",
            f"{path}",
            "save the model again; two readers may see different content in this file",
        )
    if entries and min(entry.header_offset for entry in entries) > 0:
        # torch finds the directory by its stated place, Python by where it ends.
        raise CheckpointError(
            "an archive must begin with its first entry",
            f"{path}",
            "save the model again; two readers may see different content in this file",
        )
    expanded = sum(entry.file_size for entry in entries)
    if expanded > _ZIP_EXPANSION_MAX * size + 2**20:
        raise CheckpointError(
            f"an archive must not expand to more than {_ZIP_EXPANSION_MAX} times its size",
            f"{path} with {size} bytes that expand to {expanded}",
            "save the model again with torch.save",
        )
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    kind, root = _zip_kind(path, names)
    return CheckpointFile(path, kind, size, root, compressed)


def _zip_kind(path: Path, names: set[str]) -> tuple[FileKind, str]:
    if "serialized_exported_program.json" in names:
        return "export-archive", ""
    roots = {name.split("/", 1)[0] for name in names if "/" in name}
    for root in sorted(roots):
        inside = {name.removeprefix(root + "/") for name in names if name.startswith(root + "/")}
        if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
            if "data.pkl" not in inside:
                raise _foreign(path, "a TorchScript archive of torch before 1.4")
            return "torchscript", root
        if "archive_format" in inside or any(name.startswith("models/") for name in inside):
            if len(roots) != 1:
                raise _foreign(path, "an export archive with more than one root folder")
            return "export-archive", root
        if "data.pkl" in inside:
            return "torch-zip", root
    raise _foreign(path, "a zip archive that PyTorch did not write")


def _looks_like_safetensors(head: bytes) -> bool:
    if len(head) < 10:
        return False
    length = int(struct.unpack("<Q", head[:8])[0])
    return head[8:9] == b"{" and 2 <= length <= _SAFETENSORS_HEADER_MAX


def _check_safetensors(path: Path, size: int) -> None:
    with path.open("rb") as stream:
        length = int(struct.unpack("<Q", stream.read(8))[0])
        header = stream.read(min(length, size))
    if len(header) < length:
        raise _truncated(path, f"safetensors whose header needs {length} bytes")
    try:
        entries = json.loads(header)
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _foreign(path, "safetensors with a damaged header") from None
    needed = 8 + length + max(ends, default=0)
    if size < needed:
        raise _truncated(path, f"safetensors of {size} bytes where {needed} are needed")


def _not_readable(path: Path, head: bytes, size: int) -> CheckpointError:
    if head[257:262] == b"ustar":
        return _foreign(path, "a tar archive")
    if is_plain_pickle(path, head):
        return _foreign(path, "a plain pickle that torch.save did not write")
    if is_onnx(path, size):
        return CheckpointError(
            "the model must be a PyTorch network: exporters fold away the BatchNorms that stand in "
            "for the data",
            f"the ONNX file {path}",
            "get the checkpoint that it was exported from (inspect names its producer), and pass "
            "that, or torch.export.save it as .pt2 where the file was exported",
        )
    if head.startswith(b"version https://git-lfs"):
        return CheckpointError(
            "the model file must hold the weights",
            f"{path}, a Git LFS pointer to them",
            "run git lfs pull where it was cloned, or download the file itself",
        )
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return CheckpointError(
            "the model file must hold the weights",
            f"{path}, an HTML page that a download saved in their place",
            "download it again by a link to the file itself",
        )
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _foreign(path, "an HDF5 file, as Keras writes")
    if _is_text(head):
        return _foreign(path, "a text file")
    return _foreign(path, "a file of unknown format")


def is_onnx(path: Path, size: int) -> bool:
    """Whether the top-level protobuf fields, walked but not read, are those of a ModelProto."""
    wire_of_field = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
    seen: set[int] = set()
    with path.open("rb") as stream:
        while stream.tell() < size:
            tag = _read_varint(stream)
            if tag is None or wire_of_field.get(tag >> 3) != (tag & 7):
                return False
            seen.add(tag >> 3)
            value = _read_varint(stream)
            if value is None:
                return False
            if tag & 7 == 2:
                stream.seek(value, 1)
        return stream.tell() == size and {1, 7} <= seen


def _read_varint(stream: BinaryIO) -> int | None:
    value = 0
    for position in range(10):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * position)
        if byte[0] < 0x80:
            return value
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return all(char.isprintable() or char.isspace() for char in text)


def _truncated(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        "the model file must be complete", f"{path}, {what}", "copy or download it again"
    )


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        "the model must be a PyTorch checkpoint, safetensors or a torch.export archive",
        f"{path}, {what}",
        _USE_STATE_DICT,
    )
