"""How long a run would take here: measured forward passes, extrapolated over the recipe."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrq_deploy.graph.capture import example_input
from lrq_deploy.method.images.generator import LATENT_SIZE, LongRangeGenerator
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.precision import COARSE_BITS, reduced_precision
from lrq_deploy.planning.plan import Duration
from lrq_deploy.teacher import Teacher

__all__ = ["Passes", "estimate_duration", "stage_seconds"]

PIXELS_PER_BATCH = 64 * 1024
"""A measured batch holds about this many pixels: 64 images of 32 x 32, 2 of 224 x 224."""

# A backward pass costs about twice the forward one.
TRAINING_FACTOR = 3.0
# Fake quantization of weights, biases and activations, in forward passes of the float network.
STUDENT_FACTOR = 5.0
# Dispatch, optimiser and scales of one layer in one step, which small networks feel.
STUDENT_STEP_SECONDS_PER_LAYER = 0.003
CALIBRATION_FACTOR = 6.0
# Painted images: 3.4 s for 3,584 of 32 x 32, 1.9 s for 32 of 224 x 224 on a busy thread.
PAINTING_SECONDS_PER_PIXEL = 1e-6
CHECK_FACTOR = 6.0
PARITY_IMAGES = 1000
EXPORT_SECONDS = 1.5
EXPORT_SECONDS_PER_LAYER = 0.08


@dataclass(frozen=True)
class Passes:
    """Seconds per image of forward passes.

    Attributes:
        teacher: in float32.
        trained: the teacher as it is trained against, in bfloat16 where that is faster.
        generator: as it is trained.
    """

    teacher: float
    trained: float
    generator: float


def estimate_duration(
    teacher: Teacher, settings: RecipeSettings, weight_bits: int, layers: int, long_range: bool
) -> Duration:
    """Measure forward passes of the teacher and of a new generator, and extrapolate.

    Args:
        teacher: captured.
        settings: of the recipe.
        weight_bits: of inner layers.
        layers: weighted layers.
        long_range: whether the generator attends.
    """
    pixels = teacher.input_shape[1] * teacher.input_shape[2]
    batch = min(max(PIXELS_PER_BATCH // pixels, 2), settings.batch_size)
    # The layout of the training stages.
    images = example_input(teacher.input_shape, batch).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = LongRangeGenerator(
            teacher.input_shape, teacher.num_classes, teacher.preprocessing, long_range
        )
        latent = torch.randn(batch, LATENT_SIZE)
    generator.to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % teacher.num_classes
    in_float32 = _per_image(lambda: teacher.graph(images), batch)
    with reduced_precision(images.device, settings.reduced_precision):
        passes = Passes(
            teacher=in_float32,
            trained=_per_image(lambda: teacher.graph(images), batch),
            generator=_per_image(lambda: generator(latent, generator.embed(labels)), batch),
        )
    return Duration(
        threads=torch.get_num_threads(),
        teacher_ms=1000 * passes.trained,
        generator_ms=1000 * passes.generator,
        generator_steps=settings.generator_steps,
        student_steps=settings.student_steps,
        seconds=stage_seconds(passes, settings, weight_bits, layers, pixels),
    )


def stage_seconds(
    passes: Passes, settings: RecipeSettings, weight_bits: int, layers: int, pixels: int
) -> dict[str, float]:
    """Seconds per stage from the seconds per image of single passes, of so many pixels each."""
    teacher, generator = passes.trained, passes.generator
    student = teacher if weight_bits <= COARSE_BITS else passes.teacher
    made = settings.generated_images
    painting = PAINTING_SECONDS_PER_PIXEL * pixels
    drawn = generator if settings.generator_steps else painting
    trained = settings.generator_steps * settings.batch_size
    checked = PARITY_IMAGES + settings.held_out_images
    return {
        "generator": trained * TRAINING_FACTOR * (teacher + generator),
        "images": made * (drawn + settings.refinement_steps * TRAINING_FACTOR * teacher)
        + settings.painted_images * painting,
        "calibration": settings.calibration_images * CALIBRATION_FACTOR * passes.teacher,
        # A step for each block runs that block alone: together they are one step of the whole.
        "student": (settings.student_steps + settings.block_steps)
        * (
            settings.batch_size * STUDENT_FACTOR * student + STUDENT_STEP_SECONDS_PER_LAYER * layers
        ),
        "export": EXPORT_SECONDS + EXPORT_SECONDS_PER_LAYER * layers,
        "check": checked * CHECK_FACTOR * passes.teacher,
    }


def _per_image(run: Callable[[], Tensor], batch: int) -> float:
    """Seconds per image of the quicker of two runs; the first one warms up."""
    taken = []
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return min(taken) / batch
