"""The steps of a run follow the device of the first rank."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from lrq_deploy.method.chosen import chosen_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.ranks import Ranks
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

SHAPE = (3, 32, 32)
CPU = torch.device("cpu")
OPTIONS = QuantizeOptions(Path("model.pt"), Path("out"))


class LaterRank:
    """A rank that is told what the first one found."""

    def __init__(self, told: bool) -> None:
        self._told = told

    def on_first(self, work: Callable[[], bool]) -> bool:
        return self._told


@pytest.mark.parametrize("able", [False, True])
def test_a_cpu_that_multiplies_bfloat16_takes_more_steps(
    monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    never = chosen_settings(replace(OPTIONS, precision="float32"), SHAPE, CPU)
    found = chosen_settings(OPTIONS, SHAPE, CPU)
    assert (found.student_steps > never.student_steps) == able
    assert (found == never) == (not able)


@pytest.mark.parametrize("told", [False, True])
def test_all_ranks_take_the_steps_of_the_first(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": told})
    first = chosen_settings(OPTIONS, SHAPE, CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not told})
    assert chosen_settings(OPTIONS, SHAPE, CPU, cast(Ranks, LaterRank(told))) == first


def test_the_method_has_the_last_word() -> None:
    calibrated = replace(OPTIONS, method_name="calibrate")
    assert chosen_settings(calibrated, SHAPE, CPU).student_steps == 0
    coarse = replace(OPTIONS, scheme=Scheme(weight_bits=3))
    assert chosen_settings(coarse, SHAPE, CPU).block_steps > 0
