"""The steps of a run follow its options, and no device."""

from dataclasses import replace
from pathlib import Path

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.method.chosen import chosen_settings
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

SHAPE = (3, 32, 32)
OPTIONS = QuantizeOptions(Path("model.pt"), Path("out"))


def test_options_that_are_not_given_leave_the_recipe_as_it_is() -> None:
    assert chosen_settings(OPTIONS, SHAPE) == recipe_settings("balanced", SHAPE)


def test_precision_and_compilation_change_nothing_else() -> None:
    usual = chosen_settings(OPTIONS, SHAPE)
    exact = chosen_settings(replace(OPTIONS, precision="float32"), SHAPE)
    assert exact == replace(usual, reduced_precision=False) != usual
    compiled = chosen_settings(replace(OPTIONS, compile=True), SHAPE)
    assert compiled == replace(usual, compiled=True) != usual


def test_the_options_hold_for_work_of_the_caller_too() -> None:
    work = replace(recipe_settings("fast", SHAPE), student_steps=3)
    assert chosen_settings(OPTIONS, SHAPE, work) == work
    asked = replace(OPTIONS, precision="float32", compile=True)
    assert chosen_settings(asked, SHAPE, work) == replace(
        work, reduced_precision=False, compiled=True
    )
    exact = replace(work, reduced_precision=False, compiled=True)
    assert chosen_settings(OPTIONS, SHAPE, exact) == exact


@pytest.mark.parametrize("method", ["calibrate", "zeroq", "lrq-blocks"])
def test_compilation_needs_a_student_that_is_trained(method: str) -> None:
    untrained = replace(OPTIONS, method_name=method)  # type: ignore[arg-type]
    assert chosen_settings(untrained, SHAPE).student_steps == 0
    with pytest.raises(OptionError, match=f"got --method {method}, which does not"):
        chosen_settings(replace(untrained, compile=True), SHAPE)


def test_the_method_has_the_last_word() -> None:
    calibrated = replace(OPTIONS, method_name="calibrate")
    assert chosen_settings(calibrated, SHAPE).student_steps == 0
    coarse = replace(OPTIONS, scheme=Scheme(weight_bits=3))
    assert chosen_settings(coarse, SHAPE).block_steps > 0
