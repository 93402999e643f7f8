"""Recipes: ordered by work, bounded in memory for every image size."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.method.recipe import LARGE_IMAGE_PIXELS, POOL_BYTES, recipe_settings
from lrq_deploy.options import Recipe

pytestmark = pytest.mark.unit

RECIPES: tuple[Recipe, ...] = get_args(Recipe)


def test_each_recipe_works_harder_than_the_one_before() -> None:
    work = [recipe_settings(recipe, (3, 32, 32)) for recipe in RECIPES]
    for name in ("generator_steps", "student_steps"):
        values = [getattr(settings, name) for settings in work]
        assert values == sorted(set(values)), name
    # An image that is refined takes many times what one as drawn takes.
    made = [settings.pool_images * (1 + settings.refinement_steps) for settings in work]
    assert made == sorted(set(made))


@given(
    recipe=st.sampled_from(RECIPES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 512),
    width=st.integers(8, 512),
)
def test_memory_is_bounded_and_batches_are_even(
    recipe: Recipe, channels: int, height: int, width: int
) -> None:
    settings = recipe_settings(recipe, (channels, height, width))
    one = 4 * channels * height * width
    assert settings.pool_images * one <= POOL_BYTES
    assert settings.pool_images >= settings.batch_size >= 2
    assert 5 * settings.overlay_images <= settings.pool_images
    # Labels come in pairs.
    assert settings.batch_size % 2 == 0
    assert settings.held_out_images > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_small_images_are_blended_with_all_overlays(recipe: Recipe) -> None:
    assert recipe_settings(recipe, (3, 32, 32)).overlay_images == 512


def test_large_images_come_in_smaller_batches() -> None:
    side = int(LARGE_IMAGE_PIXELS**0.5)
    small = recipe_settings("balanced", (3, side, side))
    large = recipe_settings("balanced", (3, side, side + 1))
    assert large.batch_size == small.batch_size // 4
    assert large.held_out_images == small.held_out_images // 4
    assert large.student_steps == small.student_steps
