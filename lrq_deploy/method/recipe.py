"""Recipes: how much work a run spends, one set of defaults for every network."""

from dataclasses import dataclass, replace

from lrq_deploy.options import Recipe

__all__ = ["STUDENT_SETTINGS", "RecipeSettings", "recipe_settings"]

STUDENT_SETTINGS = frozenset(
    {
        "averaged_share",
        "block_scale_rate",
        "block_steps",
        "coarse_block_steps",
        "compiled",
        "calibration_images",
        "feature_weight",
        "float_share",
        "other_weight",
        "rounding_rate",
        "rounding_weight",
        "scale_rate",
        "student_steps",
        "temperature",
        "weight_rate",
    }
)
"""Settings that the synthetic images do not depend on: kept images outlive their change."""


@dataclass(frozen=True)
class RecipeSettings:
    """Work and step sizes of one run.

    Attributes:
        generator_steps: optimiser steps of the generator.
        pool_images: synthetic images to fit the student on.
        overlay_images: painted images that those are blended with while the student learns.
        held_out_images: further images for label-free measurements, half of them painted.
        block_steps: optimiser steps of each block of the student.
        coarse_block_steps: the same for methods that fit blocks where weights are coarse alone.
        student_steps: optimiser steps of the whole student after that.
        batch_size: images per step, of both.
        calibration_images: images for the range search.
        statistics_weight: weight of the batch-norm statistics loss.
        class_weight: weight of the generator's classification loss.
        diversity_weight: weight of the diversity loss.
        margin: AMA margin in radians.
        generator_rate: Adam learning rate of the generator.
        refinement_steps: optimiser steps on the pixels of every drawn image.
        refinement_rate: Adam learning rate of these, in mean ranges of the input.
        averaged_share: share of the last steps of the whole student whose weights and scales are
            averaged; 0 keeps the last.
        float_share: share of the values that stay float while a block is fitted.
        rounding_rate: Adam learning rate of the rounding preferences.
        rounding_weight: weight of the penalty on undecided roundings.
        block_scale_rate: Adam learning rate of the logarithms of a block's activation scales.
        weight_rate: Adam learning rate of weights and biases, relative to the RMS of each.
        scale_rate: Adam learning rate of the logarithms of all scales, in the whole student.
        feature_weight: weight of the loss on what enters the last layer, beside distillation.
        temperature: of the distillation.
        other_weight: beta of the decoupled distillation.
        reduced_precision: multiply in bfloat16 where the device is made for it and nothing
            that ships depends on it, see ``lrq_deploy.method.steps.precision``.
        compiled: run the student as compiled kernels, see ``lrq_deploy.method.steps.compilation``.
    """

    generator_steps: int = 200
    pool_images: int = 2560
    overlay_images: int = 512
    held_out_images: int = 1024
    block_steps: int = 0
    coarse_block_steps: int = 300
    student_steps: int = 450
    batch_size: int = 128
    calibration_images: int = 256
    statistics_weight: float = 1.0
    class_weight: float = 0.05
    diversity_weight: float = 0.05
    margin: float = 0.6
    generator_rate: float = 1e-3
    refinement_steps: int = 20
    refinement_rate: float = 4.5e-3
    averaged_share: float = 0.5
    float_share: float = 0.5
    rounding_rate: float = 5e-2
    rounding_weight: float = 5e-2
    block_scale_rate: float = 1e-3
    weight_rate: float = 2e-3
    scale_rate: float = 3e-3
    feature_weight: float = 1.0
    temperature: float = 4.0
    other_weight: float = 1.0
    reduced_precision: bool = True
    compiled: bool = False

    @property
    def painted_held_out(self) -> int:
        """Of the held-out images: a teacher is surer of a generator's than of its own data."""
        return self.held_out_images // 2

    @property
    def painted_images(self) -> int:
        """All that are painted."""
        return self.overlay_images + self.painted_held_out

    @property
    def generated_images(self) -> int:
        """All others."""
        return self.pool_images + self.held_out_images - self.painted_held_out

    @property
    def all_images(self) -> int:
        """However they are made."""
        return self.generated_images + self.painted_images


_RECIPES: dict[Recipe, RecipeSettings] = {
    "fast": RecipeSettings(
        generator_steps=90,
        pool_images=4096,
        refinement_steps=0,
        coarse_block_steps=100,
        student_steps=220,
    ),
    "balanced": RecipeSettings(),
    "best": RecipeSettings(
        generator_steps=400,
        pool_images=7680,
        refinement_steps=15,
        coarse_block_steps=1000,
        student_steps=3300,
        # Weights move as far in as many smaller steps.
        weight_rate=1e-3,
    ),
}

LARGE_IMAGE_PIXELS = 64 * 64
POOL_BYTES = 512 * 2**20
POOL_PER_OVERLAY = 5


def recipe_settings(recipe: Recipe, input_shape: tuple[int, int, int]) -> RecipeSettings:
    """Settings of a recipe for images of a size.

    Above 64 x 64 pixels a step takes a quarter of the images, and the pool is bounded to
    512 MiB, what it is blended with to a fifth of that, so that memory stays in bounds.

    Args:
        recipe: how much time to spend.
        input_shape: of one image.
    """
    settings = _RECIPES[recipe]
    channels, height, width = input_shape
    if height * width > LARGE_IMAGE_PIXELS:
        settings = replace(settings, batch_size=settings.batch_size // 4, held_out_images=256)
    most = POOL_BYTES // (4 * channels * height * width)
    whole_batches = max(most // settings.batch_size, 1) * settings.batch_size
    pool_images = min(settings.pool_images, whole_batches)
    overlays = min(settings.overlay_images, pool_images // POOL_PER_OVERLAY)
    return replace(settings, pool_images=pool_images, overlay_images=overlays)
