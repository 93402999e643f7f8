"""The estimate of time: measured, and proportional to the work of the recipe."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.small_networks import CENTRED, SHAPE, Residual, with_statistics

from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.planning import duration
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


def test_steps_of_blocks_and_of_the_whole_take_alike() -> None:
    passes = Passes(1e-3, 1e-3, 2e-3)
    blocks = replace(SETTINGS, block_steps=200)
    longer = replace(SETTINGS, student_steps=SETTINGS.student_steps + 200)
    assert stage_seconds(passes, blocks, 2, 20, 1024) == stage_seconds(passes, longer, 2, 20, 1024)
    assert stage_seconds(passes, blocks, 2, 20, 1024) != stage_seconds(
        passes, SETTINGS, 2, 20, 1024
    )


def test_images_are_paid_for_one_by_one() -> None:
    """A second a pass, and a microsecond a pixel that is painted."""
    passes = Passes(teacher=1.0, trained=1.0, generator=1.0)
    settings = replace(
        SETTINGS,
        generator_steps=3,
        batch_size=8,
        refinement_steps=2,
        pool_images=10,
        overlay_images=6,
        held_out_images=4,
    )
    seconds = stage_seconds(passes, settings, 4, 20, 1_000_000)
    assert seconds["generator"] == 3 * 8 * (3 + 3)
    assert (settings.generated_images, settings.painted_images) == (12, 8)
    assert seconds["images"] == pytest.approx(12 * (1 + 2 * 3) + 8)
    assert seconds["check"] == (1000 + 4) * 6
    # Without a generator all of them are painted before they are refined.
    without = stage_seconds(passes, replace(settings, generator_steps=0), 4, 20, 2_000_000)
    assert without["generator"] == 0
    assert without["images"] == pytest.approx(12 * (2 + 2 * 3) + 8 * 2)


def test_a_pass_is_that_of_one_image_and_the_quicker_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 9.0, 10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    assert duration._per_image(lambda: torch.zeros(()), 8) == 2.0 / 8


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
