"""The four stages of training on one tiny network, and memory that runs out in them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lrq_deploy.calibration.drawing import ImageDrawing
from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.graph.statistics import TappedTeacher, tap_batch_norms
from lrq_deploy.method.fitting.augmented_batches import AugmentedBatches
from lrq_deploy.method.fitting.reconstruction import BlockReconstruction
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.images.generator import LongRangeGenerator
from lrq_deploy.method.images.generator_training import GeneratorTraining
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.back_off import BackOff
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.loop import ResumableStage
from lrq_deploy.options import MethodSwitches
from lrq_deploy.ranks import ALONE, Ranks
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import float_twin
from support.small_networks import CENTRED, SHAPE, Residual, calibrated, graph_of, images

SETTINGS = RecipeSettings(
    generator_steps=4,
    refinement_steps=2,
    pool_images=16,
    held_out_images=0,
    block_steps=2,
    student_steps=4,
    batch_size=8,
)
COMPLAINT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16.00 GiB of "
    "which 1.20 GiB is free. Including non-PyTorch memory, this process has 14.80 GiB in use."
)


@cache
def _start() -> fx.GraphModule:
    return calibrated(Residual(), Scheme(3, 3, 8), count=16)


def tapped_on(device: torch.device) -> TappedTeacher:
    """The teacher, with all of its tensors on a device."""
    tapped = tap_batch_norms(graph_of(Residual()), device)
    tapped.graph.to(memory_format=torch.channels_last)
    return tapped


def new_generator(device: torch.device) -> LongRangeGenerator:
    """The same untrained one each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = LongRangeGenerator(SHAPE, 5, CENTRED)
    return generator.to(device).to(memory_format=torch.channels_last)


def generator_stage(
    device: torch.device, settings: RecipeSettings = SETTINGS, ranks: Ranks = ALONE
) -> ResumableStage:
    generator, teacher = new_generator(device), tapped_on(device)
    return GeneratorTraining(
        generator, teacher, settings, "a2", StageContext(0, device, ranks=ranks)
    )


def images_stage(
    device: torch.device, settings: RecipeSettings = SETTINGS, ranks: Ranks = ALONE
) -> ResumableStage:
    generator, teacher = new_generator(device), tapped_on(device)
    pool = ImagePool(settings.generated_images, SHAPE)
    places = torch.arange(len(pool.images))
    return ImageDrawing(
        generator, teacher, settings, StageContext(0, device, ranks=ranks), pool, places
    )


def student_stage(
    device: torch.device,
    settings: RecipeSettings = SETTINGS,
    pool: Tensor | None = None,
    switches: MethodSwitches | None = None,
    task: Any = "multiclass",
    ranks: Ranks = ALONE,
) -> ResumableStage:
    student = copy.deepcopy(_start())
    switches = switches or MethodSwitches(margin="b")
    pool = images(32) if pool is None else pool
    twin = float_twin(student)
    return StudentTraining(
        student,
        twin,
        pool,
        settings,
        switches,
        task,
        StageContext(0, device, ranks=ranks),
        pool[:5],
    )


def blocks_stage(
    device: torch.device, settings: RecipeSettings = SETTINGS, ranks: Ranks = ALONE
) -> ResumableStage:
    student = copy.deepcopy(_start())
    twin, pool = float_twin(student), images(32)
    return BlockReconstruction(
        student, twin, pool, settings, StageContext(0, device, ranks=ranks), pool[:5]
    )


STAGES: dict[str, Callable[..., ResumableStage]] = {
    "generator": generator_stage,
    "images": images_stage,
    "blocks": blocks_stage,
    "student": student_stage,
}


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors in a nested state, in order."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, Mapping):
        state = list(state.values())
    if isinstance(state, Sequence) and not isinstance(state, str):
        return [tensor for item in state for tensor in tensors_of(item)]
    return []


def unwatched(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let no dispatch mode see what a function does."""
    function = getattr(owner, name)

    def hidden(*arguments: Any, **named: Any) -> Any:
        with _disable_current_modes():
            return function(*arguments, **named)

    patch.setattr(owner, name, hidden)


def draw_unwatched(patch: pytest.MonkeyPatch) -> None:
    """Hide what takes no memory of a device: draws, batches of a pool, words between ranks."""
    unwatched(patch, AugmentedBatches, "draw")
    unwatched(patch, GeneratorTraining, "prepare")
    unwatched(patch, ImageDrawing, "_new_latent")
    unwatched(patch, Ranks, "all_fit")
    unwatched(patch, Ranks, "_reduce")
    unwatched(patch, torch.distributed, "all_gather")


class RunsOut(TorchDispatchMode):
    """Memory that is missing once, for the operator of a number, counted from 0.

    Attributes:
        seen: operators so far.
        missed: whether there was such an operator.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._number = number
        self.seen = 0
        self.missed = False

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen += 1
        if self._number is not None and self.seen == self._number + 1:
            self.missed = True
            raise torch.OutOfMemoryError(COMPLAINT)
        return operator(*args, **(kwargs or {}))


def run_with_a_broken_step(
    name: str, broken: int, number: int | None, ranks: Ranks = ALONE
) -> tuple[ResumableStage, RunsOut]:
    """A stage behind its steps, without memory for an operator of one; without one, in pieces."""
    stage = STAGES[name](torch.device("cpu"), ranks=ranks)
    steps = BackOff(stage, lambda message: None, ranks)
    memory = RunsOut(number)
    for step in range(stage.steps):
        if step != broken:
            steps.step()
            continue
        if number is None:
            stage.pieces.shrink()
        with memory:
            steps.step()
    return stage, memory
