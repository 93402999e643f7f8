"""State files: written whole or not at all, and named by their content.

A file is ``NAME-DIGEST.pt``, where the digest is the first 16 hex digits of the SHA-256 of its
bytes, so that a damaged file is known by its name.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from lrq_deploy.durable import partial_file, publish_file, write_atomically
from lrq_deploy.errors import StateFileError, WriteError

__all__ = ["DIGEST_DIGITS", "SUFFIX", "read_state", "write_bytes", "write_state"]

DIGEST_DIGITS = 16
SUFFIX = ".pt"


def write_state(folder: Path, name: str, state: Mapping[str, Any]) -> Path:
    """Write tensors and plain values; the file appears complete, and stays after a power cut.

    Args:
        folder: created where it is missing.
        name: of the file, without digest and ending.
        state: nested mappings and lists of tensors, numbers, strings and None.

    Raises:
        OutputError: the disk refuses; nothing of the file is left.
    """
    with _refusals(folder), partial_file(folder / name) as partial:
        digest = _save(partial, dict(state))
        path = folder / f"{name}-{digest}{SUFFIX}"
        publish_file(partial, path)
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears complete, and stays after a power cut.

    Raises:
        OutputError: the disk refuses; nothing of the file is left.
    """
    with _refusals(path.parent):
        write_atomically(path, data)


def read_state(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Read a state file, its tensors on the CPU.

    Args:
        path: as ``write_state`` gave it.
        mapped: leave the tensors in the file, and load what is touched.

    Raises:
        StateFileError: the file is damaged or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]
        if found != path.stem.rpartition("-")[2]:
            raise _unusable(path, f"content with the digest {found}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    return state


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Make the folder, and say what the disk refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise WriteError(
            "the state of the run must be written completely",
            f"{error.strerror or error} at {folder}",
            "free space on that disk and pass --resume; what was written before is still there",
        ) from error


def _save(path: Path, state: dict[str, Any]) -> str:
    """Write a new file; the digest of its bytes."""
    with path.open("xb", buffering=0) as file:
        writer = _Digesting(file)
        try:
            torch.save(state, cast(BinaryIO, writer))
        except RuntimeError:
            # torch reports what the disk said as an error of its own.
            if writer.refusal is not None:
                raise writer.refusal from None
            raise
    return writer.digest()


class _Digesting:
    """An unbuffered file that sums up what passes, and remembers what the disk said."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self.refusal: OSError | None = None

    def write(self, data: bytes) -> int:
        self._sum.update(data)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.refusal = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def digest(self) -> str:
        return self._sum.hexdigest()[:DIGEST_DIGITS]


def _unusable(path: Path, received: str) -> StateFileError:
    return StateFileError(
        "a state file must have the content that its name states",
        f"{received} in {path}",
        "delete the file; the work is then done again",
    )
