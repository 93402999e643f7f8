"""Steps of training on CUDA: no waiting, little memory, and the answers of the CPU."""

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import images
from support.stages import SETTINGS, STAGES, student_stage, tensors_of

from lrq_deploy.errors import DeviceMemoryError
from lrq_deploy.method.steps import loop
from lrq_deploy.method.steps.back_off import BackOff
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.method.steps.tensor_cores import tf32
from lrq_deploy.progress import ProgressEvent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EXACT = replace(SETTINGS, reduced_precision=False)
AGREEMENT = 0.02
"""Relative difference of loss terms after four steps: values beside a rounding tie fall to its
other side."""


@pytest.fixture
def restricted() -> Iterator[None]:
    """Gives all of the memory back at the end."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("name", STAGES)
def test_no_step_waits_for_the_device(name: str, pieces: int) -> None:
    stage = STAGES[name](CUDA)
    stage.pieces.count = pieces
    steps = BackOff(stage, lambda message: None)
    # A step may wait where it makes the optimiser's state or hands finished images over, and a
    # block reads the sizes of its biases where it begins.
    for watched in (False, name != "images", True):
        stage.prepare()
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        try:
            steps.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert stage.steps_done == 3


@contextmanager
def ieee(device: torch.device) -> Iterator[None]:
    """Products in float32. In TF32 the blocks of these stages end up to 10 % elsewhere: a CPU
    whose products get operands of 10 bits differs so from itself.
    """
    with tf32(device):
        if device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "ieee"
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        yield


@pytest.mark.parametrize("name", STAGES)
def test_the_device_agrees_with_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "tf32", ieee)
    # What stays float at random is drawn on the device, from other numbers.
    settings = replace(EXACT, float_share=0.0)
    found, expected = (run_stage(STAGES[name](device, settings), ON_CPU) for device in (CUDA, CPU))
    # One of eight images that changes its class is no difference of the arithmetic.
    for terms in (found, expected):
        terms.pop("hit_rate", None)
    assert found == pytest.approx(expected, rel=AGREEMENT, abs=1e-3)


def test_each_compiled_step_is_that_of_the_other_student() -> None:
    # Long enough for CUDA graphs: they are recorded in the first calls and then replayed. Whole
    # runs part: a value beside a rounding tie moves all the steps behind it.
    settings = replace(EXACT, student_steps=12)
    stage, other = (student_stage(CUDA, replace(settings, compiled=c)) for c in (True, False))
    for _ in range(settings.student_steps):
        other.load_state_dict(copy.deepcopy(stage.state_dict()))
        before = [t.clone() for t in tensors_of(other.watched.state_dict())]
        for each in (stage, other):
            BackOff(each, lambda message: None).step()
        assert stage.terms() == pytest.approx(other.terms(), rel=AGREEMENT, abs=1e-3)
        states = (tensors_of(each.watched.state_dict()) for each in (stage, other))
        moved = apart = 0.0
        for start, mine, theirs in zip(before, *states, strict=True):
            moved += float((theirs - start).square().sum())
            apart += float((mine - theirs).square().sum())
        assert moved > 0
        assert apart < AGREEMENT * moved


@pytest.mark.usefixtures("restricted")
def test_a_student_that_does_not_fit_is_trained_in_pieces() -> None:
    # The allocator takes segments of 20 MiB: the peak must be many of them.
    count = 16 * 1024
    settings = replace(EXACT, batch_size=count, student_steps=2)
    whole = student_stage(CUDA, settings, images(count))
    torch.cuda.reset_peak_memory_stats()
    wanted = run_stage(whole, ON_CPU)
    peak = torch.cuda.max_memory_allocated()
    del whole
    gc.collect()
    torch.cuda.empty_cache()
    stage = student_stage(CUDA, settings, images(count))
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
    events: list[ProgressEvent] = []
    terms = run_stage(stage, replace(ON_CPU, progress=events.append))
    assert terms.pop("student_pieces") >= 2
    assert any("out of memory at step 1 (Tried to allocate" in event.message for event in events)
    assert terms == pytest.approx(wanted, rel=AGREEMENT, abs=1e-3)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors_of(stage.state_dict()))


@pytest.mark.usefixtures("restricted")
def test_a_device_without_room_is_an_error_with_what_there_is() -> None:
    stage = student_stage(CUDA, replace(EXACT, batch_size=1024), images(1024))
    torch.cuda.empty_cache()
    total, used = torch.cuda.mem_get_info()[1], torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 2**20) / total)
    with pytest.raises(DeviceMemoryError, match="64 images of the student stage must fit"):
        run_stage(stage, ON_CPU)


@pytest.mark.parametrize("name", STAGES)
def test_tf32_ends_with_the_stage(name: str) -> None:
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision
    seen = set()

    def look(event: ProgressEvent) -> None:
        if event.step:
            seen.add((torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision))

    run_stage(STAGES[name](CUDA), replace(ON_CPU, progress=look))
    assert seen == {("tf32", "tf32")}
    assert (torch.backends.cuda.matmul.fp32_precision, conv.fp32_precision) == before
