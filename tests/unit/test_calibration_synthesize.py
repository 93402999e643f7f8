"""The synthetic set: counts, bounds, repeatability, refusals; the caller's state is untouched."""

from dataclasses import replace

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import CENTRED, SHAPE, Residual, with_statistics
from torch import Tensor, nn

from lrq_deploy.calibration.synthesize import synthesize
from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import ImageSource, MethodSwitches
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(
    generator_steps=2,
    refinement_steps=2,
    batch_size=8,
    pool_images=19,
    overlay_images=5,
    held_out_images=6,
    margin=3.0,
)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return make_teacher(with_statistics(Residual()), SHAPE, CENTRED, "residual", "")


def made(
    teacher: Teacher,
    switches: MethodSwitches | None = None,
    seed: int = 0,
    settings: RecipeSettings = SETTINGS,
) -> SyntheticSet:
    return synthesize(teacher, settings, switches or MethodSwitches(), replace(ON_CPU, seed=seed))


def test_counts_shapes_and_bounds(teacher: Teacher) -> None:
    synthetic = made(teacher)
    assert synthetic.images.shape == (19, *SHAPE)
    assert synthetic.overlays.shape == (5, *SHAPE)
    assert synthetic.held_out.shape == (6, *SHAPE)
    for part in (synthetic.images, synthetic.overlays, synthetic.held_out):
        assert part.dtype == torch.float32
        assert part.is_contiguous()
        assert -1 - 1e-5 <= float(part.min()) < float(part.max()) <= 1 + 1e-5
    assert synthetic.metrics["statistics"] > 0


def test_held_out_images_are_others(teacher: Teacher) -> None:
    synthetic = made(teacher)
    others = torch.cat([synthetic.images, synthetic.overlays])
    apart = torch.cdist(synthetic.held_out.flatten(1), others.flatten(1))
    assert float(apart.min()) > 0


@pytest.mark.parametrize("source", ["generator", "noise"])
def test_overlays_and_half_of_what_is_held_out_are_painted(
    teacher: Teacher, source: ImageSource
) -> None:
    steps = 2 if source == "generator" else 0
    settings = replace(SETTINGS, generator_steps=steps)
    found = made(teacher, MethodSwitches(image_source=source), settings=settings)
    longer = replace(settings, refinement_steps=4)
    others = made(teacher, MethodSwitches(image_source=source), settings=longer)
    assert _alike(found.images, others.images) == [False] * 19
    assert _alike(found.overlays, others.overlays) == [True] * 5
    assert _alike(found.held_out, others.held_out) == [False] * 3 + [True] * 3


def test_nothing_is_painted_where_none_are_asked_for(teacher: Teacher) -> None:
    none = replace(SETTINGS, overlay_images=0, held_out_images=0)
    found = made(teacher, settings=none)
    assert (len(found.images), len(found.overlays), len(found.held_out)) == (19, 0, 0)


def _alike(some: Tensor, others: Tensor) -> list[bool]:
    return [bool((a == b).all()) for a, b in zip(some, others, strict=True)]


def test_painted_images_keep_within_learned_bounds() -> None:
    unknown = replace(CENTRED, known=False)
    blind = make_teacher(with_statistics(Residual()), SHAPE, unknown, "residual", "")
    found = made(blind)
    for painted in (found.overlays, found.held_out[3:]):
        assert 1.5 < float(painted.abs().max()) <= 2.6


def test_the_seed_decides_and_the_global_generator_stays(teacher: Teacher) -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    first = made(teacher)
    assert torch.equal(torch.rand(1), expected)
    again = made(teacher)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.held_out, again.held_out)
    assert not torch.equal(first.images, made(teacher, seed=1).images)


def test_the_teacher_stays_as_it_was(teacher: Teacher) -> None:
    before = {name: value.clone() for name, value in teacher.graph.state_dict().items()}
    made(teacher)
    for name, value in teacher.graph.state_dict().items():
        assert torch.equal(value, before[name])
    assert teacher.logits(torch.zeros(2, *SHAPE)).shape == (2, 5)


def test_margin_b_belongs_to_the_student(teacher: Teacher) -> None:
    off = made(teacher, MethodSwitches(margin="off"))
    assert torch.equal(made(teacher, MethodSwitches(margin="b")).images, off.images)
    assert not torch.equal(made(teacher, MethodSwitches(margin="a1")).images, off.images)


def test_attention_changes_the_images(teacher: Teacher) -> None:
    plain = made(teacher, MethodSwitches(long_range=False))
    assert not torch.equal(plain.images, made(teacher, MethodSwitches(long_range=True)).images)


def test_both_stages_are_reported(teacher: Teacher) -> None:
    events: list[ProgressEvent] = []
    synthesize(teacher, SETTINGS, MethodSwitches(), replace(ON_CPU, progress=events.append))
    last = {event.stage: (event.step, event.total) for event in events}
    assert last == {"generator": (2, 2), "images": (6, 6)}


def test_more_training_changes_the_images(teacher: Teacher) -> None:
    longer = made(teacher, settings=replace(SETTINGS, generator_steps=3))
    assert not torch.equal(longer.images, made(teacher).images)


@pytest.mark.parametrize("step", ["generator_steps", "refinement_steps"])
def test_steps_towards_statistics_need_a_network_with_batch_norm(step: str) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    teacher = make_teacher(plain.eval(), SHAPE, CENTRED, "plain", "")
    none = replace(SETTINGS, generator_steps=0, refinement_steps=0)
    with pytest.raises(UnsupportedNetworkError, match="BatchNorm"):
        made(teacher, settings=replace(none, **{step: 1}))  # type: ignore[arg-type]
    images = made(teacher, settings=none, switches=MethodSwitches(image_source="leaves")).images
    assert images.std() > 0.3
