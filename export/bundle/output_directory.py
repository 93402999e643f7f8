"""Directories that appear whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lrq_deploy.durable import PARTIAL, partial_path, sync_directory
from lrq_deploy.errors import BundleError, OutputError, WriteError
from lrq_deploy.export.bundle.manifest import MANIFEST_NAME, Manifest

__all__ = ["check_output", "check_writable", "publish"]

OLD = ".old"
"""How the name of a bundle ends while it is replaced."""
_LONGER = f"..{'0' * 16}{PARTIAL}"
"""What the longest name beside a folder has more than its own."""


def check_output(out: Path, force: bool) -> None:
    """Refuse an output directory before any work is done; writes nothing.

    Raises:
        OutputError: it cannot be created or written, it holds something, or ``force`` would
            delete things that are not a bundle.
    """
    # Not pathlib's questions, which raise where a name is too long or a folder is closed.
    there = os.path.exists(out)
    if there and not os.path.isdir(out):
        raise OutputError("--out must be a directory", f"the file {out}", "choose another --out")
    _check_not_current(out)
    check_writable("--out", _place(out))
    if there:
        check_writable("--out", _place(out).parent)
    entries = {entry.name for entry in out.iterdir()} if there else set()
    if not entries:
        return
    if not force:
        raise OutputError(
            "--out must be empty or not exist yet",
            f"{out} with {len(entries)} entries",
            "choose another --out, or replace the bundle there with --force",
        )
    _check_replaceable(out, entries)


def check_writable(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be created or written; writes nothing.

    Raises:
        OutputError: of the option that names the folder.
    """
    existing = next(p for p in [folder, *folder.absolute().parents] if os.path.exists(p))
    refusal = OutputError(
        f"{option} must lie in a directory that can be written", f"{existing}", "choose another"
    )
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise refusal
    try:
        # The superuser may write everywhere by permission, and yet not below /proc.
        Path(tempfile.mkdtemp(prefix=".lrq.", dir=existing)).rmdir()
    except OSError as error:
        raise refusal from error
    try:
        os.lstat(f"{folder}{_LONGER}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"{option} must have a name that the disk takes",
            f"{error.strerror}: {folder}",
            "choose a shorter one",
        ) from error


def publish(out: Path, files: Mapping[str, bytes], force: bool) -> None:
    """Write ``files`` into a new directory ``out`` that is complete when it appears.

    An existing bundle stays untouched until the new one is on the disk.

    Raises:
        OutputError: as ``check_output``, or the disk refuses.
    """
    check_output(out, force)
    out = _place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(out)
        partial.mkdir()
    except OSError as error:
        raise _refused(out, error) from error
    try:
        for name, data in files.items():
            _write(partial / name, data)
        sync_directory(partial)
        _swap(partial, out)
        sync_directory(out.parent)
        _clear(out)
    except OSError as error:
        raise _refused(out, error) from error
    finally:
        # Also after an interrupt; once the directory has been renamed there is nothing to remove.
        shutil.rmtree(partial, ignore_errors=True)


def _place(out: Path) -> Path:
    """Where the folder is: of a link to another disk the folder there is replaced, not the link."""
    return Path(os.path.realpath(out))


def _check_not_current(out: Path) -> None:
    """The bundle replaces the folder, and whoever is in it would be left in a deleted one."""
    if out.name == ".." or (os.path.exists(out) and os.path.samefile(out, ".")):
        raise OutputError(
            "--out must not be the current folder or end in '..': it is replaced as a whole",
            f"{out}",
            f"pass a new folder such as --out {out / 'bundle'}",
        )


def _check_replaceable(out: Path, entries: set[str]) -> None:
    try:
        known = {MANIFEST_NAME, *Manifest.read(out).files}
    except BundleError:
        known = set()
    foreign = sorted(entries - known)
    if foreign:
        raise OutputError(
            "--force replaces only a bundle of lrq-deploy",
            f"{out}, which also holds {', '.join(foreign[:5])}",
            "choose another --out, or remove these yourself",
        )


def _swap(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = partial.with_suffix(OLD)
    # A signal may end the run behind either of the two.
    try:
        out.rename(old)
        partial.rename(out)
    finally:
        if not out.exists():
            old.rename(out)


def _clear(out: Path) -> None:
    """Delete what runs that were killed while they wrote or replaced ``out`` have left beside it.

    Such may be all that is left of a bundle, until there is a new one.
    """
    ours = rf"\.{re.escape(out.name)}\.[0-9a-f]{{16}}({re.escape(PARTIAL)}|{re.escape(OLD)})"
    for path in out.parent.iterdir():
        if re.fullmatch(ours, path.name):
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refused(out: Path, error: OSError) -> WriteError:
    return WriteError(
        "the bundle must be written completely",
        f"{error.strerror or error} at {error.filename or out}",
        "free space on the disk or choose another --out; nothing was left behind",
    )
