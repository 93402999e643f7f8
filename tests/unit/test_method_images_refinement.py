"""Refinement: closer to the stored statistics, inside the bounds, the same every time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, Residual, graph_of
from torch import Tensor

from lrq_deploy.graph.statistics import TappedTeacher, tap_batch_norms
from lrq_deploy.method.images.refinement import Refinement
from lrq_deploy.method.images.statistics_loss import channel_moments, moments_loss
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.pieces import Pieces

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(refinement_steps=20, refinement_rate=0.04)
BOUNDS = (
    torch.tensor([-1.5, -1.4, -1.6])[:, None, None],
    torch.tensor([1.0, 1.2, 0.8])[:, None, None],
)


@pytest.fixture(scope="module")
def teacher() -> TappedTeacher:
    return tap_batch_norms(graph_of(Residual()))


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    images = torch.randn(16, *SHAPE, generator=random).clamp(*BOUNDS)
    return images, torch.arange(16) % 2


def refine(
    images: Tensor,
    labels: Tensor,
    teacher: TappedTeacher,
    settings: RecipeSettings,
    bounds: tuple[Tensor, Tensor],
) -> Tensor:
    """All steps of one batch."""
    refinement = Refinement(images, labels, teacher, settings, bounds, Pieces(len(images)))
    for _ in range(settings.refinement_steps):
        refinement.step()
        refinement.steps_done += 1
    return refinement.pixels.detach()


def distance(teacher: TappedTeacher, images: Tensor) -> float:
    with torch.no_grad():
        moments = channel_moments(teacher.graph(images)[2])
        return float(moments_loss(moments, teacher.statistics))


def test_statistics_come_closer_and_pixels_stay_inside(teacher: TappedTeacher) -> None:
    images, labels = batch()
    refined = refine(images, labels, teacher, SETTINGS, BOUNDS)
    assert distance(teacher, refined) < 0.8 * distance(teacher, images)
    assert torch.equal(refined.amin((0, 2, 3), keepdim=True)[0], BOUNDS[0])
    assert torch.equal(refined.amax((0, 2, 3), keepdim=True)[0], BOUNDS[1])


def test_the_loss_weighs_statistics_and_classes(teacher: TappedTeacher) -> None:
    images, labels = batch()
    settings = replace(SETTINGS, statistics_weight=2.0, class_weight=3.0, reduced_precision=False)
    refinement = Refinement(images, labels, teacher, settings, BOUNDS, Pieces(16))
    crossed = F.cross_entropy(teacher.graph(images)[0], labels).item()
    expected = 2 * distance(teacher, images) + 3 * crossed
    assert refinement.step().item() == pytest.approx(expected, rel=1e-5)


def test_the_rate_falls_linearly_to_0(teacher: TappedTeacher) -> None:
    images, labels = batch()
    settings = replace(SETTINGS, refinement_steps=4)
    refinement = Refinement(images, labels, teacher, settings, BOUNDS, Pieces(16))
    (optimizer,) = refinement.moving().optimizers
    rates = []
    for _ in range(4):
        refinement.step()
        refinement.steps_done += 1
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_the_argument_is_kept_and_the_result_repeats(teacher: TappedTeacher) -> None:
    images, labels = batch()
    before = images.clone()
    first = refine(images, labels, teacher, SETTINGS, BOUNDS)
    assert torch.equal(images, before)
    assert torch.equal(first, refine(images, labels, teacher, SETTINGS, BOUNDS))


@pytest.mark.parametrize("size", [1.0, 4.0])
def test_a_step_is_a_share_of_the_range_of_the_input(teacher: TappedTeacher, size: float) -> None:
    """Adam's first step is the learning rate itself, whatever the gradient."""
    images, labels = batch()
    bounds = (BOUNDS[0] * size, BOUNDS[1] * size)
    one_step = replace(SETTINGS, refinement_steps=1)
    moved = (refine(images / 2, labels, teacher, one_step, bounds) - images / 2).abs().max()
    assert float(moved) == pytest.approx(0.04 * 2.5 * size, rel=0.01)
