"""A run that is short of device memory ends with a bundle, says so, and can be continued."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_run import contents, run
from support.stages import COMPLAINT

from lrq_deploy.method.steps import back_off
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.stop_request import RunStopped, stop_on_signals

pytestmark = pytest.mark.integration

BACKWARD = Pieces.backward


def cramped(pieces: Pieces, *arguments: Any) -> Any:
    """``Pieces.backward`` where no more than four images fit."""
    if pieces.images // pieces.count > 4:
        raise torch.OutOfMemoryError(COMPLAINT)
    return BACKWARD(pieces, *arguments)


@pytest.fixture(autouse=True)
def _cpu_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "RUNS_OUT", frozenset({"cpu"}))
    monkeypatch.setattr(Pieces, "backward", cramped)


def test_the_bundle_says_in_how_many_pieces_it_was_made(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    run(tmp_path / "whole", events.append)
    found = contents(tmp_path / "whole")
    assert found["metrics"]["generator"]["generator_pieces"] == 2
    assert found["metrics"]["generator"]["images_pieces"] == 2
    assert found["metrics"]["student"]["student_pieces"] == 2
    told = [event.stage for event in events if "goes on with each batch" in event.message]
    assert told == ["generator", "images", "student"]

    def stop(event: ProgressEvent) -> None:
        if (event.stage, event.step, event.message) == ("student", 6, ""):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = tmp_path / "stopped"
    with stop_on_signals() as request, pytest.raises(RunStopped):
        run(stopped, stop, RunControl(stop=request))
    run(stopped, control=RunControl(resume=True))
    assert contents(stopped) == found
