"""Runs that processes share; as a script, such a run.

``python shared_run.py JOB FOLDER [COUNT]`` forks the processes from one that has loaded
everything and leaves what each returns in ``FOLDER/rankR.json``. ``torchrun ... shared_run.py JOB
FOLDER`` is one of the processes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
import torch

from lrq_deploy.calibration import synthesize
from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.calibration.synthetic_store import synthesize_once
from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.cli.job import pipeline
from lrq_deploy.errors import DeviceMemoryError, LrqError, OutputError, RankLostError, WriteError
from lrq_deploy.graph.statistics import NormStatistics
from lrq_deploy.launch import launch
from lrq_deploy.method.fitting.augmented_batches import AugmentedBatches
from lrq_deploy.method.fitting.teacher_answers import TeacherAnswers
from lrq_deploy.method.images.diversity import part_of_pairs
from lrq_deploy.method.images.statistics_loss import channel_moments, moments_loss
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps import back_off
from lrq_deploy.method.steps.back_off import BackOff
from lrq_deploy.method.steps.loop import ResumableStage
from lrq_deploy.method.steps.pieces import Pieces
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.ranks import ALONE, Ranks, joined_ranks
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import run_folder_of
from lrq_deploy.resume.stop_request import stop_on_signals
from lrq_deploy.student.freeze import frozen_model
from support.resumed_run import ALWAYS, run
from support.small_networks import images
from support.stages import COMPLAINT, STAGES, draw_unwatched, run_with_a_broken_step, tensors_of

T = TypeVar("T")

CPU = torch.device("cpu")
BROKEN = 1
"""The step in which memory ends, counted from 0; the last one of a batch and of a block."""

DIGIT_SETTINGS = RecipeSettings(
    generator_steps=60,
    refinement_steps=5,
    pool_images=512,
    held_out_images=64,
    block_steps=8,
    student_steps=60,
    batch_size=64,
)


def started(job: str, folder: Path, count: int = 2) -> list[Any]:
    """What the processes of a job return."""
    done = ended(job, folder, count)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


def ended(job: str, folder: Path, count: int = 2) -> "subprocess.CompletedProcess[str]":
    """How the processes of a job end, without a launcher that would end them all."""
    return subprocess.run(
        [sys.executable, __file__, job, str(folder), str(count)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """That of a process which finds ``support``, with one thread per process."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def agreement(folder: Path) -> dict[str, Any]:
    """What the ranks agree on, two bundles that they make, and what is said of a late one."""
    with joined_ranks(launch(), CPU) as ranks:
        sums = _sums(ranks)
        run(folder / "bundle")
        digits = json.loads((folder / "digits.json").read_text())
        held, accuracy = _held(lambda: quantize_digits(folder / "digits", **digits))
    told = {"full": _full(folder), "late": _late(), "elsewhere": _told_elsewhere()}
    return {"sums": sums, "held": held, "accuracy": accuracy, **told}


def quantize_digits(out: Path, model: str, images: str) -> float | None:
    """Percent of the digits that the student gets right."""
    options = QuantizeOptions(Path(model), out, images=Path(images), device="cpu", bench=False)
    return pipeline.quantize(options, settings=DIGIT_SETTINGS).student_accuracy


def _sums(ranks: Ranks) -> dict[str, Any]:
    """Each way in which ranks agree, and the gradient of a batch in two parts."""
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(ranks.rank)
    ranks.align(module)
    return {
        "mean": ranks.mean({"a": float(ranks.rank), "b": 4.0}),
        "largest": ranks.largest(ranks.rank, -ranks.rank),
        "collected": ranks.collected(torch.full((1, 2), float(ranks.rank))).tolist(),
        "gathered": ranks.gathered(str(ranks.rank)),
        "aligned": module.weight.detach().sum().item(),
        "first": ranks.on_first(lambda: f"from {ranks.rank}"),
        "first_failed": _told(lambda: ranks.on_first(_fail), OutputError),
        "one_failed": _told(lambda: ranks.together(_fail if ranks.rank else str), OutputError),
        "gradient": _statistics_gradient(ranks),
        "whole_gradient": _statistics_gradient(ALONE),
        "batch": _batches(ranks),
        "whole_batch": _batches(ALONE),
        "answered": _answered(ranks),
        "pairs": part_of_pairs(torch.arange(8) % 4, ranks).tolist(),
    }


def _fail() -> None:
    raise OutputError("a disk must have room", "none", "make some")


def _told(work: Callable[[], object], kind: type[Exception]) -> str:
    try:
        work()
    except kind as error:
        return str(error)
    return ""


def _statistics_gradient(ranks: Ranks) -> dict[str, Any]:
    """Value and gradient of the statistics loss of a layer on a batch that ranks share."""
    random = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 3, 5, 5, generator=random) * 2 + 7
    layer = torch.nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=random))
        assert layer.bias is not None
        layer.bias.copy_(torch.ones(4))
    stored = NormStatistics(torch.full((4,), 6.0), torch.full((4,), 2.0))
    loss = moments_loss(channel_moments([layer(batch[ranks.part(8)])]), (stored,), ranks)
    loss.backward()
    ranks.average_gradients(torch.optim.SGD(layer.parameters()))
    assert layer.weight.grad is not None
    return {"loss": loss.item(), "weight": layer.weight.grad.flatten().tolist()}


def _batches(ranks: Ranks) -> list[list[float]]:
    """The first pixel of each image of this rank's parts of three batches."""
    batches = AugmentedBatches(images(30), 24, 3, ranks)
    return [batches.draw().images[:, 0, 0, 0].tolist() for _ in range(3)]


def _answered(ranks: Ranks) -> list[bool]:
    """Whether remembered answers are those of this rank's images, once all views were seen."""
    batches = AugmentedBatches(images(24), 8, 3, ranks)

    def ask(batch: torch.Tensor) -> torch.Tensor:
        return batch.mean((2, 3))

    answers = TeacherAnswers(ask, batches.views, ranks)
    found = []
    for _ in range(2 * batches.views // 8):
        drawn = batches.draw()
        found.append(torch.equal(answers.of(drawn, drawn.images), ask(drawn.images)))
    return found


def _held(work: Callable[[], T]) -> tuple[dict[str, str], T]:
    """Digests of the images and of the fitted student that this rank holds in a run."""
    held: dict[str, str] = {}

    def made(*arguments: Any) -> Any:
        result = synthesize_once(*arguments)
        pool = {"images": result.synthetic.images, "held_out": result.synthetic.held_out}
        held["images"] = fingerprint(pool)
        return result

    def frozen(student: torch.fx.GraphModule, *arguments: Any) -> Any:
        held["student"] = fingerprint(student.state_dict())
        return frozen_model(student, *arguments)

    with (
        patch.object(pipeline, "synthesize_once", made),
        patch.object(pipeline, "frozen_model", frozen),
    ):
        return held, work()


def _full(folder: Path) -> str:
    """The disk of the last rank has no room for the images; what each is told."""
    room = WriteError("a disk must have room", "none on this machine", "make some")
    full = launch().rank == launch().count - 1
    limited = RunControl(max_memory_mb=1)
    with patch.object(synthesize, "ImagePool", side_effect=room if full else ImagePool):
        return _told(lambda: run(folder / "full", control=limited), WriteError)


def _told_elsewhere() -> bool:
    """Whether this process leaves it to another one to say what ends the run."""
    try:
        with joined_ranks(launch(), CPU) as ranks:
            ranks.on_first(_fail)
    except OutputError as error:
        return error.told_elsewhere
    raise AssertionError("the first one failed")


def _late() -> str:
    """The last rank does not come to a step; what the others are told."""
    with joined_ranks(launch(), CPU) as patient:
        # Nobody may be late for the impatient group itself.
        patient.gathered(0)
        with joined_ranks(launch(), CPU, timedelta(seconds=5)) as ranks:
            if ranks.rank == ranks.count - 1:
                time.sleep(11)
                return ""
            return _told(lambda: ranks.mean({"loss": 1.0}), RankLostError)


def bundle(folder: Path) -> None:
    """A tiny bundle; where there is a file ``kill``, rank 1 dies once a student state is kept."""
    out = folder / "bundle"
    dies = launch().rank == 1 and (folder / "kill").exists()
    with stop_on_signals() as stop, pytest.MonkeyPatch.context() as patched:
        if dies:
            patched.setattr(Ranks, "average_gradients", _dying_after(run_folder_of(out)))
        run(out, control=RunControl(resume=True, checkpoint_every=ALWAYS, stop=stop))


def _dying_after(state: Path) -> Callable[[Ranks, torch.optim.Optimizer], None]:
    average = Ranks.average_gradients

    def die_or_average(ranks: Ranks, optimizer: torch.optim.Optimizer) -> None:
        if list(state.glob("student-*")):
            os.kill(os.getpid(), signal.SIGKILL)
        average(ranks, optimizer)

    return die_or_average


def memory(folder: Path) -> dict[str, Any]:
    """Each stage where one rank runs out in some operator of a step, and where none does."""
    found: dict[str, Any] = {}
    with joined_ranks(launch(), CPU) as ranks, pytest.MonkeyPatch.context() as patch:
        patch.setattr(back_off, "RUNS_OUT", frozenset({"cpu"}))
        draw_unwatched(patch)
        for name in STAGES:
            wanted, counted = run_with_a_broken_step(name, BROKEN, None, ranks)
            found[name] = [_short_of_memory(name, wanted, counted.seen, n, ranks) for n in range(8)]
        found["never"] = _never_fits(ranks)
    return found


def _short_of_memory(
    name: str, wanted: ResumableStage, operators: int, position: int, ranks: Ranks
) -> dict[str, Any]:
    """In two pieces a step has twice the operators; every other time, the last rank runs out."""
    short = ranks.rank == position % ranks.count
    # Ranks need not have the same number of operators, but must agree on where memory ends.
    (most,) = ranks.largest(operators)
    number = int(most / 2 * (position + 0.5) / 8) if short else -1
    stage, memory = run_with_a_broken_step(name, BROKEN, number, ranks)
    missed = any(ranks.gathered(memory.missed))
    pairs = zip(tensors_of(stage.state_dict()), tensors_of(wanted.state_dict()), strict=True)
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())
    return {"missed": missed, "pieces": stage.pieces.count, "apart": apart}


def _never_fits(ranks: Ranks) -> str:
    """What is said where the last rank has no memory at all."""
    steps = BackOff(STAGES["student"](CPU, ranks=ranks), lambda message: None, ranks)

    def never(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(COMPLAINT)

    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == ranks.count - 1:
            patch.setattr(Pieces, "backward", never)
        return _told(steps.step, DeviceMemoryError)


JOBS: dict[str, Callable[[Path], Any]] = {
    "agreement": agreement,
    "bundle": bundle,
    "memory": memory,
}


def _fork(job: str, folder: Path, count: int) -> int:
    """Run a job in processes of its own; the worst of their exit codes."""
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ.update(place, **sizes, RANK=str(rank), LOCAL_RANK=str(rank))
            code = 1
            try:
                result = JOBS[job](folder)
                (folder / f"rank{rank}.json").write_text(json.dumps(result))
                code = 0
            except LrqError:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    name, where = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) == 3:
        JOBS[name](where)
    else:
        sys.exit(_fork(name, where, int(sys.argv[3])))
