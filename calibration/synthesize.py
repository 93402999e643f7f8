"""Make the synthetic set: train a generator on the teacher, then draw from it.

Half of the held-out images are painted instead: a teacher is so sure of its generator's that
students agree on all of them which give every twentieth answer on data wrong (docs/decisions.md).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lrq_deploy.calibration.drawing import Drawn, ImageDrawing
from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.statistics import TappedTeacher, tap_batch_norms
from lrq_deploy.method.images.dead_leaves import DeadLeaves
from lrq_deploy.method.images.generator import LongRangeGenerator
from lrq_deploy.method.images.generator_training import GeneratorTraining
from lrq_deploy.method.images.noise import NoiseImages
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MethodSwitches
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["synthesize"]

PAINTED_AT_ONCE = 32


def synthesize(
    teacher: Teacher,
    settings: RecipeSettings,
    switches: MethodSwitches,
    context: StageContext,
    pool_file: Path | None = None,
) -> SyntheticSet:
    """Images from the teacher alone; the same context and thread count give the same.

    With ``pool_file`` they are in that file, mapped into memory, and not in memory.

    Raises:
        UnsupportedNetworkError: the teacher has no BatchNorm, and the settings train on one.
        DivergenceError: the generator's loss is not finite.
        WriteError: the disk has no room for ``pool_file``, on some rank.
    """
    tapped = tap_batch_norms(teacher.graph, context.device)
    tapped.graph.to(memory_format=torch.channels_last)
    if not tapped.statistics and (settings.generator_steps or settings.refinement_steps):
        raise UnsupportedNetworkError(
            "a generator learns from the statistics of BatchNorm layers",
            "a network without one",
            "pass --method leaves, which paints images without them",
        )
    source, metrics = _image_source(teacher, tapped, settings, switches, context)
    # Each machine has a disk of its own.
    pool = context.ranks.together(
        lambda: ImagePool(settings.all_images, teacher.input_shape, pool_file)
    )
    to_draw, to_paint = _places(settings)
    after = replace(context, seed=context.seed + 1)
    drawing = ImageDrawing(source, tapped, settings, after, pool, to_draw)
    run_stage(drawing, after)
    bounds = tuple(bound.cpu() for bound in source.bounds())
    for places, painted in _painted(teacher, bounds, to_paint, context.seed + 2):
        pool.put(places, painted)
    metrics |= drawing.pieces.figures(drawing.name)
    fit, overlays, held_out = pool.images.split(_sizes(settings))
    return SyntheticSet(fit, overlays, held_out, metrics)


def _sizes(settings: RecipeSettings) -> list[int]:
    """Images to fit on, overlays and held-out ones, behind each other in the pool."""
    return [settings.pool_images, settings.overlay_images, settings.held_out_images]


def _places(settings: RecipeSettings) -> tuple[Tensor, Tensor]:
    """Where drawn and where painted images are in the pool."""
    fit, overlays, held_out = torch.arange(settings.all_images).split(_sizes(settings))
    painted = settings.painted_held_out
    drawn, others = held_out.split([len(held_out) - painted, painted])
    return torch.cat([fit, drawn]), torch.cat([others, overlays])


def _painted(
    teacher: Teacher, bounds: tuple[Tensor, ...], places: Tensor, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Painted images within ``bounds`` for ``places``, some at a time."""
    low, high = bounds
    about = (teacher.input_shape, teacher.num_classes, teacher.preprocessing, teacher.task)
    painter = DeadLeaves(*about, (low, high))
    random = torch.Generator().manual_seed(seed)
    # Nothing in parts is one part of nothing.
    for some in places.split(PAINTED_AT_ONCE) if len(places) else ():
        latent = torch.randn(len(some), *painter.latent_shape, generator=random)
        yield some, painter(latent, painter.embed(latent))


def _image_source(
    teacher: Teacher,
    tapped: TappedTeacher,
    settings: RecipeSettings,
    switches: MethodSwitches,
    context: StageContext,
) -> tuple[Drawn, dict[str, float]]:
    """What images are drawn from, and how well it was trained."""
    about = (teacher.input_shape, teacher.num_classes, teacher.preprocessing)
    if switches.image_source == "noise":
        return NoiseImages(*about, teacher.task).to(context.device), {}
    if switches.image_source == "leaves":
        return DeadLeaves(*about, teacher.task).to(context.device), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        generator = LongRangeGenerator(*about, switches.long_range, teacher.task)
    generator.to(context.device).to(memory_format=torch.channels_last)
    context.ranks.align(generator)
    margin = "off" if switches.margin == "b" else switches.margin
    training = GeneratorTraining(generator, tapped, settings, margin, context)
    return generator, run_stage(training, context)
