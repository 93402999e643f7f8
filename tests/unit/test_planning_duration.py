"""The estimate of time: measured, and proportional to the work of the recipe."""

from dataclasses import replace
from typing import Any

import pytest
from support.small_networks import CENTRED, SHAPE, Residual, with_statistics

from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.planning.duration import Passes, estimate_duration, stage_seconds

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings()


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ({"generator_steps": 2 * SETTINGS.generator_steps}, "generator"),
        ({"student_steps": 2 * SETTINGS.student_steps}, "student"),
        ({"calibration_images": 2 * SETTINGS.calibration_images}, "calibration"),
    ],
)
def test_twice_the_work_takes_twice_the_time(change: dict[str, Any], stage: str) -> None:
    passes = Passes(1e-3, 1e-3, 2e-3)
    before = stage_seconds(passes, SETTINGS, 4, 20, 1024)
    after = stage_seconds(passes, replace(SETTINGS, **change), 4, 20, 1024)
    assert after.pop(stage) == pytest.approx(2 * before.pop(stage))
    assert after == before


def test_a_slower_teacher_slows_what_runs_it() -> None:
    quick, slow = (stage_seconds(Passes(t, t, 1e-3), SETTINGS, 4, 20, 1024) for t in (1e-3, 2e-3))
    assert {name for name in quick if slow[name] > quick[name]} == {
        "generator",
        "images",
        "calibration",
        "student",
        "check",
    }


def test_forward_passes_are_measured() -> None:
    teacher = make_teacher(with_statistics(Residual()), SHAPE, CENTRED, "net", "")
    found = estimate_duration(teacher, SETTINGS, 4, 6, long_range=True)
    assert found.threads >= 1
    assert found.teacher_ms > 0
    assert found.generator_ms > 0
    assert found.total_seconds == pytest.approx(sum(found.seconds.values()))


def test_a_student_of_many_bits_takes_the_time_of_float32() -> None:
    passes = Passes(teacher=4e-3, trained=1e-3, generator=1e-3)
    coarse, fine = (stage_seconds(passes, SETTINGS, bits, 20, 1024) for bits in (4, 8))
    assert fine.pop("student") > 2 * coarse.pop("student")
    assert fine == coarse
