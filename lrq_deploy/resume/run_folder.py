"""The folder beside the output that lets a run continue: ``OUT.run``.

It holds ``run.json``, what the run was asked to do; the newest two states of each stage, named
``STAGE-STEP-DIGEST.pt``; the finished images, ``STAGE-KEY-DIGEST.pt``, or those being made,
``images.pool``; and a lock, so that no other run writes there. It is removed when the bundle is
written. A file of any other name is somebody else's and stays.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrq_deploy.durable import PARTIAL
from lrq_deploy.errors import OptionError, OutputError, StateFileError
from lrq_deploy.method.steps.context import Kept
from lrq_deploy.process_memory import resident_bytes
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_lock import LOCK, RunLock
from lrq_deploy.resume.stage_store import KEY_DIGITS
from lrq_deploy.resume.state_file import (
    DIGEST_DIGITS,
    SUFFIX,
    read_state,
    write_bytes,
    write_state,
)
from lrq_deploy.resume.stop_request import StopRequest

__all__ = ["RUN_SCHEMA", "RunFolder", "run_folder_of"]

RUN_SCHEMA = 3
IDENTITY = "run.json"
POOL = "images.pool"
STATES_KEPT = 2
STEP_DIGITS = 8

_NAMED = rf"[a-z]+-([0-9]{{{STEP_DIGITS}}}|[0-9a-f]{{{KEY_DIGITS}}})"
_STATE = re.compile(rf"{_NAMED}-[0-9a-f]{{{DIGEST_DIGITS}}}{re.escape(SUFFIX)}")
_UNFINISHED = re.compile(rf"\.({re.escape(IDENTITY)}|{_NAMED})\.[0-9a-z_]+{re.escape(PARTIAL)}")


def run_folder_of(out: Path) -> Path:
    """Where the state of the run that writes ``out`` is kept."""
    # Not with_name, which fails on "." and "/"; check_output refuses these with a reason.
    return out.parent / f"{out.name}.run"


class RunFolder:
    """Keeps the state of a run's stages as files; a ``StageKeeper``.

    Args:
        folder: see ``run_folder_of``; created by ``begin``, and from then to ``close`` no other
            run writes there.
        control: how often, and whether a former run is continued.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, folder: Path, control: RunControl, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self._lock = RunLock(folder)
        self._interval = control.checkpoint_every
        self._max_memory_mb = control.max_memory_mb
        self._resume = control.resume
        self._stop = control.stop or StopRequest()
        self._clock = clock
        self._next = clock() + self._interval

    def check(self, force: bool) -> None:
        """Refuse, before any work, to lose the state of a former run.

        Raises:
            OutputError: there is one that is neither continued nor replaced, or still goes
                on, or the folder holds something else.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir() or (foreign := self._foreign()):
            raise OutputError(
                f"{self.folder} must be free for the state of the run",
                f"{self.folder}" if not self.folder.is_dir() else f"{foreign[0]} in it",
                "choose another --out, or move this away",
            )
        self._lock.check()
        if (self.folder / IDENTITY).exists() and not self._resume and not force:
            raise OutputError(
                "a run that was stopped must be continued or given up",
                f"its state in {self.folder}",
                "pass --resume to continue it, --force to start anew, or choose another --out",
            )

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Start a run, or continue the one that is kept.

        Args:
            identity: plain values by name that decide what the run makes.

        Raises:
            OptionError: the kept run was asked for something else.
            OutputError: the disk refuses, or another run goes on in the folder.
        """
        self._lock.take()
        asked = {"schema_version": RUN_SCHEMA, **json.loads(json.dumps(identity))}
        kept = self._kept_identity() if self._resume else None
        if kept is not None:
            _check_same(kept, asked, self.folder)
            for path in self.folder.iterdir():
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink()
            return
        self._empty()
        text = json.dumps(asked, indent=1, sort_keys=True) + "\n"
        write_bytes(self.folder / IDENTITY, text.encode())

    def pool_file(self, size_bytes: int) -> Path | None:
        """Where images are to be kept that memory has no room for; None where it has.

        A run that is continued leaves them where they were.
        """
        path = self.folder / POOL
        if path.exists():
            return path
        limit = self._max_memory_mb
        room = None if limit is None else limit * 2**20 - resident_bytes()
        return None if room is None or size_bytes <= room else path

    def kept(self, stage: str) -> Kept:
        """The newest state of a stage that is not damaged.

        Raises:
            StateFileError: it cannot be read now, and stays: it may be whole.
        """
        self._stop.deferred = True
        self._stop.obey()
        note = ""
        for path in reversed(self._states(stage)):
            try:
                state = read_state(path)
            except StateFileError as error:
                if isinstance(error.__cause__, OSError):
                    raise
                path.unlink(missing_ok=True)
                note = f"{path.name} is damaged ({error.received.partition(' in ')[0]}); "
                continue
            step = _step_of(path)
            return Kept(state, f"{note}continues after step {step:,}")
        return Kept(None, f"{note}starts anew" if note else "")

    def due(self, last: bool) -> bool:
        """At the end of a stage, when the interval is over, and when the run is to stop."""
        return last or self._stop.number is not None or self._clock() >= self._next

    def keep(self, stage: str, step: int, state: Mapping[str, Any]) -> None:
        """Write the state of a stage; the one before stays, and none of later steps.

        Raises:
            OutputError: the disk refuses; what was kept before is still there.
            RunStopped: a signal asked for it.
        """
        written = write_state(self.folder, f"{stage}-{step:0{STEP_DIGITS}}", state)
        states = self._states(stage)
        # A stage that could not be continued began anew: what it had reached is not this one's.
        before = [path for path in states if _step_of(path) < step][1 - STATES_KEPT :]
        for old in {*states} - {written, *before}:
            old.unlink(missing_ok=True)
        self._next = self._clock() + self._interval
        self._stop.obey()

    def release(self, *stages: str) -> None:
        """Delete the states of stages whose product is kept elsewhere.

        What runs now keeps no state, so that a signal may end it at once.

        Raises:
            RunStopped: one came.
        """
        for path in (path for stage in stages for path in self._states(stage)):
            path.unlink(missing_ok=True)
        self._stop.deferred = False
        self._stop.obey()

    def remove(self) -> None:
        """Delete the folder and all that a run keeps in it."""
        if not self.folder.is_dir():
            return
        self._empty()
        (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.free()
        # It may hold what is not ours, or be a link to a place with more room.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let another run have the folder."""
        self._lock.free()

    def _empty(self) -> None:
        """Delete all but the lock."""
        # The identity goes first: without it the rest is nobody's.
        (self.folder / IDENTITY).unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name != LOCK and _is_ours(path):
                path.unlink()

    def _states(self, stage: str) -> list[Path]:
        """From the oldest to the newest."""
        found = self.folder.glob(f"{stage}-{'[0-9]' * STEP_DIGITS}-*{SUFFIX}")
        return sorted((path for path in found if _is_ours(path)), key=_step_of)

    def _foreign(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if not _is_ours(path))

    def _kept_identity(self) -> dict[str, Any] | None:
        path = self.folder / IDENTITY
        if not path.exists():
            return None
        try:
            identity = json.loads(path.read_bytes())
        except ValueError:
            identity = None
        if not isinstance(identity, dict):
            raise OutputError(
                "a stopped run must say what it was asked for",
                f"{path}, which is damaged",
                "run again with --force and without --resume, which gives the stopped run up",
            )
        return identity


def _is_ours(path: Path) -> bool:
    """Whether a run wrote this; told by the whole name, because what is ours may be deleted."""
    if path.is_dir():
        return False
    name = path.name
    patterns = (_STATE, _UNFINISHED)
    return name in (IDENTITY, LOCK, POOL) or any(p.fullmatch(name) for p in patterns)


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[-2])


def _check_same(kept: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    names = sorted({*kept, *asked})
    changed = [name for name in names if kept.get(name) != asked.get(name)]
    if changed:
        shown = [f"{n} {_short(asked.get(n))} instead of {_short(kept.get(n))}" for n in changed]
        raise OptionError(
            "--resume must continue a run with the options and the network that it began with",
            "; ".join(shown),
            f"pass what the run began with, or --force without --resume to give up {folder}",
        )


def _short(value: Any) -> str:
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_digest else text
