"""Files that appear whole or not at all, and stay after a power cut."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "PARTIAL",
    "partial_file",
    "partial_path",
    "publish_file",
    "sync_directory",
    "write_atomically",
]

PARTIAL = ".partial"
"""How the names of unfinished files and folders end."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write or replace a file in a folder that exists.

    Raises:
        OSError: the disk refuses; what was there before still is, and nothing else.
    """
    with partial_file(path) as partial:
        partial.write_bytes(data)
        publish_file(partial, path)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for what becomes this file; nothing is left there afterwards."""
    partial = partial_path(path)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """A free name beside ``path``; unlike those of ``tempfile``, with the mode of any new file."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def publish_file(partial: Path, path: Path) -> None:
    """Give a written file its name, once its content is on the disk.

    Raises:
        OSError: the disk refuses.
    """
    with partial.open("r+b") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on the disk; nothing where the system has no such call."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
