"""Options of a run: what is checked whichever way they come, by flags, by a file or by a call."""

import math
from pathlib import Path
from typing import Any

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.options import MethodSwitches, QuantizeOptions

pytestmark = pytest.mark.unit


def options(**changes: Any) -> QuantizeOptions:
    return QuantizeOptions(Path("model.pt"), Path("out"), **changes)


@pytest.mark.parametrize("size", [0.0, -1.0, math.inf, math.nan])
def test_a_size_is_above_zero_and_finite(size: float) -> None:
    with pytest.raises(OptionError, match="target_size") as caught:
        options(target_size=size)
    assert caught.value.received == f"{size}"
    assert options(target_size=0.2).target_size == 0.2


@pytest.mark.parametrize("side", [8, 512])
def test_an_image_has_8_to_512_pixels_a_side(side: int) -> None:
    options(input_shape=(1, side, side))
    beyond = side - 1 if side == 8 else side + 1
    for shape in ((1, beyond, side), (1, side, beyond)):
        with pytest.raises(OptionError, match="8 to 512") as caught:
            options(input_shape=shape)
        assert caught.value.received == ",".join(str(n) for n in shape)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_pixels_are_normalised_by_finite_numbers(value: float) -> None:
    with pytest.raises(OptionError, match="finite"):
        options(mean=(0.5, value), std=(0.5, 0.5))
    with pytest.raises(OptionError, match="finite"):
        options(mean=(0.5, 0.5), std=(0.5, value))


@pytest.mark.parametrize("std", [0.0, -0.5])
def test_a_deviation_is_above_zero(std: float) -> None:
    with pytest.raises(OptionError, match="std must be above 0"):
        options(mean=(0.5, 0.5), std=(0.5, std))


def test_there_is_one_mean_for_each_channel_where_the_shape_is_known() -> None:
    half = (0.5,)
    options(mean=half, std=half)
    options(input_shape=(1, 8, 8), mean=half, std=half)
    with pytest.raises(OptionError, match="per input channel"):
        options(input_shape=(3, 8, 8), mean=half, std=half)


@pytest.mark.parametrize(
    ("name", "value"),
    [("method_name", "magic"), ("recipe", "slow"), ("task", "many"), ("precision", "half")],
)
def test_a_word_that_is_no_choice_is_refused_with_those_there_are(name: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"{name.split('_')[0]} must be one of ") as caught:
        options(**{name: value})
    assert caught.value.received == repr(value)


@pytest.mark.parametrize("switch", ["margin", "image_source"])
def test_a_switch_that_is_no_choice_is_refused(switch: str) -> None:
    unknown: dict[str, Any] = {switch: "magic"}
    with pytest.raises(OptionError, match=f"{switch} must be one of "):
        MethodSwitches(**unknown)
