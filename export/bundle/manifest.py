"""``manifest.json``: what a bundle holds, what it was made from, and how good it is."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.own_document import own_document, read_document
from lrq_deploy.stored_schema import OUTDATED

__all__ = [
    "MANIFEST_NAME",
    "MANIFEST_SCHEMA",
    "FileRecord",
    "Manifest",
]

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 3
_READABLE = (1, 2, MANIFEST_SCHEMA)  # 1: no widths per layer in the scheme; 2: no class names


@dataclass(frozen=True)
class FileRecord:
    """One file of a bundle.

    Attributes:
        sha256: of its bytes, hexadecimal.
        size_bytes: its length.
    """

    sha256: str
    size_bytes: int

    @staticmethod
    def of(data: bytes) -> "FileRecord":
        """Record of given bytes."""
        return FileRecord(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        created: UTC time in ISO 8601; the only part that differs between equal runs.
        versions: of this project and of the libraries that shaped the result.
        name: of the teacher.
        teacher_fingerprint: SHA-256 of the teacher's weights.
        scheme: fields of ``Scheme``.
        input_shape: ``[C, H, W]``.
        num_classes: length of a row of logits.
        preprocessing: fields of ``Preprocessing``.
        seed: of the run.
        options: what the user asked for.
        metrics: all figures of the run, by stage.
        files: every other file of the bundle by name.
        class_names: in the order of the logits; empty where nobody stated them.
    """

    created: str
    versions: Mapping[str, str]
    name: str
    teacher_fingerprint: str
    scheme: Mapping[str, Any]
    input_shape: tuple[int, ...]
    num_classes: int
    preprocessing: Mapping[str, Any]
    seed: int
    options: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    class_names: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Indented JSON with sorted keys."""
        return own_document(MANIFEST_SCHEMA, asdict(self))

    @staticmethod
    def read(folder: str | Path) -> "Manifest":
        """Read the manifest of a bundle directory; the other files are not touched.

        Raises:
            BundleError: there is none, it is not ours, or of another schema.
        """
        path = Path(folder) / MANIFEST_NAME
        found = read_document(path, Manifest, _READABLE, _not_ours, OUTDATED)
        if len(found.input_shape) != 3 or min(found.input_shape) < 1:
            raise _not_ours(path, f"input_shape: {found.input_shape} is not C,H,W")
        if len(found.class_names) not in (0, found.num_classes):
            told = f"{len(found.class_names)} names of {found.num_classes} classes"
            raise _not_ours(path, f"class_names: {told}")
        return found


def _not_ours(path: Path, reason: str) -> BundleError:
    return BundleError(
        "a bundle must hold a manifest.json written by lrq-deploy",
        f"{path} ({reason})",
        "pass the directory that lrq-deploy quantize created",
    )
