"""One process at a time writes into a run folder; the system frees the lock of one that dies."""

import sys
from pathlib import Path
from typing import IO

from lrq_deploy.errors import OutputError, WriteError

__all__ = ["LOCK", "check_unlocked", "lock", "unlock"]

LOCK = "run.lock"

_held: dict[Path, IO[bytes]] = {}
"""Locks of this process by folder."""


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another process writes into; writes nothing.

    Raises:
        OutputError: one does.
    """
    if folder.resolve() in _held:
        return
    try:
        file = (folder / LOCK).open("rb")
    except OSError:
        return
    with file:
        if not _locked(file, shared=True):
            raise _in_use(folder)


def lock(folder: Path) -> None:
    """Lock a folder, which is created, until ``unlock`` or the end of the process.

    A former run of this process, which may have ended in any way, gives way.

    Raises:
        OutputError: another process holds the lock, or the disk refuses.
    """
    unlock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise WriteError(
            "the folder for the state of the run must be writable",
            f"{error.strerror or error} at {folder}",
            "free space on that disk, or choose another --out",
        ) from error
    if not _locked(file):
        file.close()
        raise _in_use(folder)
    _held[folder.resolve()] = file


def unlock(folder: Path) -> None:
    """Let others lock a folder that this process may have locked."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        file.close()


def _locked(file: IO[bytes], shared: bool = False) -> bool:
    """False where another process holds the lock; True without one where there are no locks."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system that knows none
    return True


def _in_use(folder: Path) -> OutputError:
    return OutputError(
        "one run at a time may write the bundle beside its folder",
        f"{folder}, in which another process keeps the state of its run",
        "wait until that run ends, or choose another --out",
    )
