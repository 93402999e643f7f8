"""Progress on the screen: live bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from lrq_deploy.cli.reports.console import ReportConsole
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.wording import counted

__all__ = ["LiveView", "PlainView", "ProgressView", "SilentView", "progress_view", "view_beside"]

SECONDS_BETWEEN_LINES = 10.0


class ProgressView(Protocol):
    """Receives progress events between ``__enter__`` and ``__exit__``."""

    def __enter__(self) -> Self:
        """Begin to draw."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen in order, also after an error."""

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event."""


def progress_view(console: Console, *, quiet: bool, plain: bool) -> ProgressView:
    """The view that suits the console.

    Args:
        console: where to draw.
        quiet: show nothing.
        plain: plain lines even on a terminal.
    """
    if quiet:
        return SilentView()
    if plain or not console.is_terminal:
        return PlainView(console)
    return LiveView(console)


@contextmanager
def view_beside(console: Console, *, json: bool, quiet: bool) -> Iterator[ProgressView]:
    """Progress on ``console``, or with ``json`` on stderr, which then gets all other output too.

    Networks and libraries write to stdout as they like; it is kept for the result.
    """
    screen = ReportConsole(stderr=True) if json else console
    apart = redirect_stdout(sys.stderr) if screen.stderr else nullcontext()
    with progress_view(screen, quiet=quiet, plain=json) as view, apart:
        yield view


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def __call__(self, event: ProgressEvent) -> None:
        return


class PlainView(SilentView):
    """One line at the start and the end of a stage, and one every ten seconds between.

    Args:
        console: where to write.
        clock: seconds that never run backwards.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started: dict[str, float] = {}
        self._last_line: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = self._clock()
        if event.step == 0 or event.stage not in self._started:
            self._started[event.stage] = self._last_line[event.stage] = now
            if event.step == 0:
                self._line(f"{event.stage}: {counted(event.total, 'step')}")
        if event.message:
            self._line(f"{event.stage}: {event.message}")
        if event.step == event.total:
            took = _duration(now - self._started[event.stage])
            self._line(_joined(f"{event.stage}: done in {took}", event, left=False))
        elif event.step and now - self._last_line[event.stage] >= SECONDS_BETWEEN_LINES:
            self._last_line[event.stage] = now
            self._line(_joined(f"{event.stage}: {event.step}/{event.total}", event, left=True))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """One bar per stage with its loss terms, images per second and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=8),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[time]}", table_column=Column(min_width=10, no_wrap=True)),
            TextColumn(
                "{task.fields[figures]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: ProgressEvent) -> None:
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._progress.add_task(event.stage, time="", figures="")
            self._started[event.stage] = time.monotonic()
        if event.message:
            text = f"{event.stage}: {event.message}"
            self._console.print(text, markup=False, highlight=False)
        self._progress.update(
            self._tasks[event.stage],
            completed=event.step,
            total=event.total,
            time=self._time(event),
            figures=", ".join(_figures(event)),
        )

    def _time(self, event: ProgressEvent) -> str:
        if event.step == event.total:
            return _duration(time.monotonic() - self._started[event.stage])
        return "" if event.seconds_left is None else f"{_duration(event.seconds_left)} left"


def _joined(head: str, event: ProgressEvent, *, left: bool) -> str:
    parts = [head, *_figures(event)]
    if left and event.seconds_left is not None:
        parts.append(f"{_duration(event.seconds_left)} left")
    return ", ".join(parts)


def _figures(event: ProgressEvent) -> list[str]:
    rate = [f"{event.images_per_second:.0f} images/s"] if event.images_per_second else []
    return rate + [f"{name} {value:.3g}" for name, value in event.metrics.items()]


def _duration(seconds: float) -> str:
    """``8.2 s``, ``1:05`` or ``1:02:03``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
