"""A step that runs out of memory is repeated in pieces, as if it had begun so."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.contexts import ON_CPU
from support.stages import (
    COMPLAINT,
    SETTINGS,
    STAGES,
    draw_unwatched,
    run_with_a_broken_step,
    tensors_of,
)

from lrq_deploy.errors import DeviceMemoryError
from lrq_deploy.method.steps import back_off
from lrq_deploy.method.steps.back_off import BackOff
from lrq_deploy.method.steps.context import Kept
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.progress import ProgressEvent

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _cpu_runs_out() -> Any:
    """The CPU stands for a GPU, but for what a GPU has no part in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(back_off, "RUNS_OUT", frozenset({"cpu"}))
        draw_unwatched(patch)
        yield


@pytest.mark.parametrize("name", STAGES)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(broken=st.integers(0, SETTINGS.student_steps - 1), part=st.floats(0, 1, exclude_max=True))
def test_wherever_memory_ends_the_step_is_the_one_that_began_in_pieces(
    name: str, broken: int, part: float
) -> None:
    expected, counted = run_with_a_broken_step(name, broken, None)
    # Half the operators of a step in two pieces are about those of one in a single piece.
    stage, memory = run_with_a_broken_step(name, broken, int(part * counted.seen / 2))
    if not memory.missed:
        return
    assert stage.steps_done == expected.steps_done == stage.steps
    assert stage.pieces.count == expected.pieces.count == 2
    pairs = zip(tensors_of(stage.state_dict()), tensors_of(expected.state_dict()), strict=True)
    for found, wanted in pairs:
        # Only what a block reads may have been computed whole, and then has other last bits.
        tolerance = 1e-5 if name == "blocks" else 0.0
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STAGES)
def test_what_fits_in_no_piece_is_an_error_that_says_what_there_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(COMPLAINT)

    monkeypatch.setattr(Pieces, "backward", never)
    said: list[str] = []
    steps = BackOff(STAGES[name](CPU), said.append)
    with pytest.raises(DeviceMemoryError) as caught:
        steps.step()
    assert caught.value.rule.startswith(f"1 images of the {name} stage must fit")
    assert caught.value.received == (
        "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16.00 GiB of which "
        "1.20 GiB is free"
    )
    assert caught.value.remedy.endswith("or --device cpu")
    assert [message.split()[-2] for message in said] == ["2", "4", "8"]
    assert "out of memory at step 1 (Tried to allocate 2.00 GiB. GPU 0" in said[0]


class Memory:
    """Keeps a state, once, after a step."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.state: Mapping[str, Any] | None = None
        self._step = 0

    def kept(self, stage: str) -> Kept:
        return Kept(self.state)

    def due(self, last: bool) -> bool:
        self._step += 1
        return self._step == self._after

    def keep(self, stage: str, step: int, state: Mapping[str, Any]) -> None:
        self.state = copy.deepcopy(state)


def cramped(pieces: Pieces, *arguments: Any) -> Any:
    """``Pieces.backward`` where no more than four images fit."""
    if pieces.images // pieces.count > 4:
        raise torch.OutOfMemoryError(COMPLAINT)
    return BACKWARD(pieces, *arguments)


BACKWARD = Pieces.backward


@pytest.mark.parametrize("name", STAGES)
def test_a_continued_stage_keeps_its_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pieces, "backward", cramped)
    events: list[ProgressEvent] = []
    keeper = Memory(after=2)
    whole = STAGES[name](CPU)
    terms = run_stage(whole, replace(ON_CPU, progress=events.append, keeper=keeper))
    assert terms[f"{name}_pieces"] == 2
    assert ["in 2 pieces" in event.message for event in events if event.message] == [True]
    # With all of the memory, it goes on as it was.
    monkeypatch.setattr(Pieces, "backward", BACKWARD)
    again = STAGES[name](CPU)
    assert run_stage(again, replace(ON_CPU, keeper=keeper)) == terms
    for found, wanted in zip(
        tensors_of(again.state_dict()), tensors_of(whole.state_dict()), strict=True
    ):
        assert torch.equal(found, wanted)


def test_enough_memory_says_nothing() -> None:
    events: list[ProgressEvent] = []
    terms = run_stage(STAGES["student"](CPU), replace(ON_CPU, progress=events.append))
    assert not any(event.message for event in events)
    assert "student_pieces" not in terms
