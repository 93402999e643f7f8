"""One run at a time writes into a run folder; the system frees the lock of a process that dies."""

import sys
from pathlib import Path
from typing import IO

from lrq_deploy.errors import OutputError, WriteError

__all__ = ["LOCK", "RunLock"]

LOCK = "run.lock"


class RunLock:
    """The lock of a run folder, which two runs of one process do not share either.

    Args:
        folder: see ``run_folder_of``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def check(self) -> None:
        """Refuse a folder that another run writes into; writes nothing.

        Raises:
            OutputError: one does.
        """
        try:
            file = (self._folder / LOCK).open("rb")
        except OSError:
            return
        with file:
            if not _locked(file, shared=True):
                raise _in_use(self._folder)

    def take(self) -> None:
        """Lock the folder, which is created, until ``free`` or the end of the process.

        Raises:
            OutputError: another run holds the lock, or the disk refuses.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / LOCK).open("ab")
        except OSError as error:
            raise WriteError(
                "the folder for the state of the run must be writable",
                f"{error.strerror or error} at {self._folder}",
                "free space on that disk, or choose another --out",
            ) from error
        if not _locked(file):
            file.close()
            raise _in_use(self._folder)
        self._file = file

    def free(self) -> None:
        """Let others take the lock, if it is held here."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _locked(file: IO[bytes], shared: bool = False) -> bool:
    """False where another run holds the lock; True without one where there are no locks."""
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
        f"{folder}, in which another run keeps its state",
        "wait until that run ends, or choose another --out",
    )
