"""Progress: plain lines that never flood, live bars within the width, silence."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from lrq_deploy.cli.reports.progress_view import LiveView, PlainView, SilentView, progress_view
from lrq_deploy.progress import ProgressEvent, StageProgress

pytestmark = pytest.mark.unit


def console(*, terminal: bool, width: int = 80) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, force_terminal=terminal, width=width), written


def test_plain_lines_come_at_start_end_and_every_ten_seconds() -> None:
    screen, written = console(terminal=False)
    now = 0.0
    view = PlainView(screen, clock=lambda: now)
    view(ProgressEvent("student", 0, 250))
    for step in range(1, 251):
        now = step * 0.1
        view(ProgressEvent("student", step, 250, {"kd": 0.5}, 640.0, (250 - step) * 0.1))
    assert written.getvalue().splitlines() == [
        "student: 250 steps",
        "student: 100/250, 640 images/s, kd 0.5, 15.0 s left",
        "student: 200/250, 640 images/s, kd 0.5, 5.0 s left",
        "student: done in 25.0 s, 640 images/s, kd 0.5",
    ]


def test_plain_lines_keep_messages_and_brackets_whole() -> None:
    screen, written = console(terminal=False, width=20)
    view = PlainView(screen)
    view(ProgressEvent("load", 0, 1, message="[red] is not markup, and long lines stay one line"))
    assert written.getvalue().splitlines()[1].endswith("long lines stay one line")
    assert "[red]" in written.getvalue()


def test_stages_may_overlap() -> None:
    screen, written = console(terminal=False)
    with PlainView(screen) as view:
        outer = StageProgress(view, "outer", 1)
        StageProgress(view, "inner", 1).advance()
        outer.advance()
    heads = [line.split(" in ")[0] for line in written.getvalue().splitlines()]
    assert heads == ["outer: 1 step", "inner: 1 step", "inner: done", "outer: done"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_bars_stay_within_the_width(width: int) -> None:
    screen, written = console(terminal=True, width=width)
    with LiveView(screen) as view:
        stage = StageProgress(view, "generator", 3, images_per_step=64)
        for _ in range(2):
            stage.advance({"statistics": 0.123456, "classes": 12.5, "margin": 1e-3})
    text = written.getvalue()
    assert "generator" in text
    assert "67%" in text
    assert "images/s" in text
    screen_lines = [line for line in text.replace("\r", "\n").splitlines() if "generator" in line]
    assert all(Text.from_ansi(line).cell_len <= width for line in screen_lines)


def test_live_bars_leave_the_terminal_in_order_after_an_error() -> None:
    screen, written = console(terminal=True)

    def fail() -> None:
        with LiveView(screen) as view:
            view(ProgressEvent("capture", 0, 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert written.getvalue().rstrip().endswith("\x1b[?25h")


def test_the_view_suits_the_console() -> None:
    pipe, terminal = console(terminal=False)[0], console(terminal=True)[0]
    assert type(progress_view(pipe, quiet=False, plain=False)) is PlainView
    assert type(progress_view(terminal, quiet=False, plain=False)) is LiveView
    assert type(progress_view(terminal, quiet=False, plain=True)) is PlainView
    assert type(progress_view(terminal, quiet=True, plain=False)) is SilentView


def test_silence() -> None:
    screen, written = console(terminal=True)
    with progress_view(screen, quiet=True, plain=False) as view:
        StageProgress(view, "load", 1).advance()
    assert written.getvalue() == ""
