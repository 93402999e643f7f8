"""What a fit is given reaches each of its stages."""

from dataclasses import replace

import pytest
import torch
from support.small_networks import Residual, calibrated, images
from torch import Tensor

from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.method.loop import KEEP_NOTHING
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import silent
from lrq_deploy.scheme import Scheme
from lrq_deploy.synthetic import SyntheticSet

pytestmark = pytest.mark.unit

POOL = images(32)
ALONE = RecipeSettings(student_steps=0, batch_size=16)


def fitted(settings: RecipeSettings, overlays: Tensor) -> Tensor:
    student = calibrated(Residual(), Scheme(3, 3, 8), count=16)
    synthetic = SyntheticSet(POOL, overlays, POOL[:0], {})
    fit_student(
        student,
        synthetic,
        settings,
        MethodSwitches(margin="off"),
        True,
        "multiclass",
        0,
        torch.device("cpu"),
        silent,
        KEEP_NOTHING,
    )
    return torch.cat([p.detach().flatten() for p in student.parameters()])


@pytest.mark.parametrize("stage", ["block_steps", "student_steps"])
def test_overlays_reach_each_stage_but_the_ranges(stage: str) -> None:
    settings = replace(ALONE, **{stage: 2})  # type: ignore[arg-type]
    plain, again, blended = (fitted(settings, x) for x in (POOL[:0], POOL[:0], 3 * POOL[:4]))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, blended)
    ranges = [fitted(ALONE, x) for x in (POOL[:0], 3 * POOL[:4])]
    assert torch.equal(*ranges)
