"""The table of methods: which parts each has, and what it leaves to the recipe."""

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.method.methods import METHODS, method_settings
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import Method, MethodSwitches, QuantizeOptions

pytestmark = pytest.mark.unit

RECIPE = RecipeSettings(student_steps=77, pool_images=512, batch_size=32)


def test_every_name_has_a_method_that_fixes_known_settings() -> None:
    assert set(METHODS) == set(get_args(Method))
    known = {field.name for field in fields(RecipeSettings)}
    for method in METHODS.values():
        assert set(method.settings) <= known


def test_the_default_is_the_recipe_as_it_is() -> None:
    assert RECIPE.block_steps == 0
    assert method_settings("lrq", RECIPE, 4) == RECIPE
    assert METHODS["lrq"].switches == MethodSwitches()


@pytest.mark.parametrize(
    ("weight_bits", "rate", "steps"),
    [(2, 1e-3, 154), (3, 1e-3, 154), (4, 2e-3, 77), (8, 2e-3, 77)],
)
def test_coarse_weights_move_as_far_in_smaller_steps(
    weight_bits: int, rate: float, steps: int
) -> None:
    assert RECIPE.weight_rate == 2e-3
    for name, method in METHODS.items():
        settings = method_settings(name, RECIPE, weight_bits)
        assert settings.weight_rate == rate
        trains = method.trains and name != "lrq-blocks"
        assert settings.student_steps == (steps if trains else 0)


def test_a_rate_that_is_small_already_keeps_the_steps() -> None:
    small = replace(RECIPE, weight_rate=1e-3)
    assert method_settings("lrq", small, 2).student_steps == RECIPE.student_steps


@pytest.mark.parametrize("weight_bits", [2, 3])
def test_coarse_weights_are_fitted_in_blocks_first(weight_bits: int) -> None:
    for method in METHODS:
        blocks = method_settings(method, RECIPE, weight_bits).block_steps
        if method in ("lrq", "leaves"):
            assert blocks == RECIPE.coarse_block_steps
        else:
            assert blocks == METHODS[method].settings.get("block_steps", 0)


def test_the_paper_and_gdfq_differ_in_generator_margin_and_distillation_alone() -> None:
    assert method_settings("lrq-paper", RECIPE, 4) == method_settings("gdfq", RECIPE, 4)
    paper, gdfq = METHODS["lrq-paper"].switches, METHODS["gdfq"].switches
    assert (paper.long_range, paper.margin, paper.decoupled) == (True, "a1", True)
    assert (gdfq.long_range, gdfq.margin, gdfq.decoupled) == (False, "off", False)
    assert replace(paper, long_range=False, margin="off", decoupled=False) == gdfq
    plain = method_settings("gdfq", RECIPE, 4)
    assert (plain.refinement_steps, plain.diversity_weight, plain.feature_weight) == (0, 0, 0)
    assert plain.scale_rate == 0
    assert plain.student_steps == RECIPE.student_steps


def test_blocks_are_fitted_instead_of_the_whole_student() -> None:
    settings = method_settings("lrq-blocks", RECIPE, 4)
    assert settings.block_steps > 0
    assert settings == replace(RECIPE, block_steps=settings.block_steps, student_steps=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_images_of_our_generator_alone_are_blended(method: Method) -> None:
    wanted = RECIPE.overlay_images if method in ("lrq", "lrq-blocks") else 0
    assert method_settings(method, RECIPE, 4).overlay_images == wanted


@pytest.mark.parametrize("method", ["zeroq", "calibrate"])
def test_methods_that_do_not_train_make_the_images_of_the_ranges_only(method: Method) -> None:
    settings = method_settings(method, RECIPE, 4)
    assert settings.student_steps == 0
    assert settings.pool_images == RECIPE.calibration_images
    assert settings.held_out_images == RECIPE.held_out_images


def test_zeroq_has_neither_generator_nor_labels() -> None:
    settings = method_settings("zeroq", RECIPE, 4)
    assert METHODS["zeroq"].switches.image_source == "noise"
    assert (settings.generator_steps, settings.class_weight) == (0, 0)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(OptionError, match="method must be one of lrq, lrq-blocks, leaves"):
        QuantizeOptions(Path("m"), Path("o"), method_name="zq")  # type: ignore[arg-type]
