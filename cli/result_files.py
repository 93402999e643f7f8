"""Files that a measuring command leaves in ``--out``: refused early, written whole."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from lrq_deploy.durable import write_atomically
from lrq_deploy.errors import OutputError, WriteError
from lrq_deploy.export.bundle.output_directory import check_writable

__all__ = ["check_folder", "write_files"]


def check_folder(out: Path, names: Iterable[str], force: bool) -> None:
    """Refuse a folder before any work is done; writes nothing.

    Raises:
        OutputError: a file of these names is there already, or the folder cannot be written.
    """
    present = [name for name in names if os.path.exists(out / name)]
    if present and not force:
        raise OutputError(
            "--out must not hold such files yet",
            f"{', '.join(present)} in {out}",
            "choose another --out, or replace them with --force",
        )
    check_writable("--out", out)


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into ``out``, which is created; each appears whole.

    Raises:
        WriteError: the disk refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(out / name, data)
    except OSError as error:
        raise WriteError(
            "the results must be written completely",
            f"{error.strerror or error} at {out}",
            "free space on the disk or choose another --out",
        ) from error
