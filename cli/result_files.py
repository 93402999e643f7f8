"""Files that a measuring command leaves in ``--out``: refused early, written whole."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lrq_deploy.errors import OutputError

__all__ = ["check_folder", "write_files"]


def check_folder(out: Path, names: Iterable[str], force: bool) -> None:
    """Refuse a folder before any work is done; writes nothing.

    Raises:
        OutputError: a file of these names is there already, or the folder cannot be written.
    """
    present = [name for name in names if (out / name).exists()]
    if present and not force:
        raise OutputError(
            "--out must not hold such files yet",
            f"{', '.join(present)} in {out}",
            "choose another --out, or replace them with --force",
        )
    existing = next(p for p in [out, *out.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError("--out must be a folder that can be written", f"{out}", "choose another")


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into ``out``, which is created; each appears whole.

    Raises:
        OutputError: the disk refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            partial = out / f".{name}.partial"
            partial.write_bytes(data)
            partial.replace(out / name)
    except OSError as error:
        raise OutputError(
            "the results must be written completely",
            f"{error.strerror or error} at {error.filename or out}",
            "free space on the disk or choose another --out",
        ) from error
