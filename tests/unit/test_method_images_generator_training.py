"""Training of the generator: it learns, repeats itself, and every term and mode acts."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import CENTRED, SHAPE, Residual, Upsampling, graph_of
from torch import Tensor, nn

from lrq_deploy.errors import DivergenceError
from lrq_deploy.graph.statistics import TappedTeacher, tap_batch_norms
from lrq_deploy.method.images.generator import LongRangeGenerator
from lrq_deploy.method.images.generator_training import GeneratorTraining
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MarginMode
from lrq_deploy.progress import ProgressEvent, silent

pytestmark = pytest.mark.unit

# The large margin lets mode a2 act on every angle.
SETTINGS = RecipeSettings(generator_steps=2, batch_size=16, margin=3.0)
QUICK = replace(SETTINGS, generator_rate=1e-2)


@pytest.fixture(scope="module")
def teacher() -> TappedTeacher:
    return tap_batch_norms(graph_of(Residual()))


def trained(
    teacher: TappedTeacher,
    settings: RecipeSettings = SETTINGS,
    margin: MarginMode = "off",
    seed: int = 0,
    progress: Any = silent,
) -> tuple[LongRangeGenerator, dict[str, float]]:
    torch.manual_seed(0)
    generator = LongRangeGenerator(SHAPE, 5, CENTRED)
    context = replace(ON_CPU, seed=seed, progress=progress)
    training = GeneratorTraining(generator, teacher, settings, margin, context)
    return generator, run_stage(training, context)


def flat(generator: LongRangeGenerator) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in generator.parameters()])


def test_the_statistics_of_the_images_approach_the_stored_ones(teacher: TappedTeacher) -> None:
    settings = replace(QUICK, class_weight=0.0, diversity_weight=0.0)
    _, first = trained(teacher, replace(settings, generator_steps=1))
    _, last = trained(teacher, replace(settings, generator_steps=40))
    # Random statistics contradict each other, so that no images have them all.
    assert last["statistics"] < 0.85 * first["statistics"]


def test_the_images_come_to_be_of_their_class(teacher: TappedTeacher) -> None:
    settings = replace(QUICK, statistics_weight=0.0, class_weight=1.0, diversity_weight=0.0)

    # One batch tells little of a loss, and CPUs round differently.
    def mean_loss(steps: int) -> float:
        asked = replace(settings, generator_steps=steps, generator_rate=3e-3)
        return sum(trained(teacher, asked, seed=seed)[1]["classes"] for seed in range(4)) / 4

    assert mean_loss(15) < 0.85 * mean_loss(1)


def test_a_seed_decides_everything(teacher: TappedTeacher) -> None:
    first, _ = trained(teacher)
    torch.rand(3)
    again, _ = trained(teacher)
    other, _ = trained(teacher, seed=1)
    assert torch.equal(flat(first), flat(again))
    assert not torch.equal(flat(first), flat(other))


@pytest.mark.parametrize("term", ["statistics", "class", "diversity"])
def test_each_term_counts_by_its_weight(teacher: TappedTeacher, term: str) -> None:
    """The first step of plain descent: no gradient for a weight of 0, twice as much for twice."""
    none = {f"{name}_weight": 0.0 for name in ("statistics", "class", "diversity")}
    found = []
    for weight in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        generator = LongRangeGenerator(SHAPE, 5, CENTRED)
        settings = replace(SETTINGS, **none | {f"{term}_weight": weight}, reduced_precision=False)  # type: ignore[arg-type]
        GeneratorTraining(generator, teacher, settings, "off", ON_CPU).step()
        grads = [p.grad for p in generator.parameters() if p.grad is not None]
        found.append(torch.cat([grad.flatten() for grad in grads]))
    nothing, once, twice = found
    assert float(nothing.abs().max()) == 0 < float(once.abs().max())
    torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-6)


def test_the_rate_falls_by_half_a_cosine_to_a_hundredth(teacher: TappedTeacher) -> None:
    torch.manual_seed(0)
    settings = replace(SETTINGS, generator_steps=4, generator_rate=0.5)
    stage = GeneratorTraining(
        LongRangeGenerator(SHAPE, 5, CENTRED), teacher, settings, "off", ON_CPU
    )
    rates = []
    for _ in range(4):
        rates.append(stage.moving().optimizers[0].param_groups[0]["lr"])
        stage.step()
        stage.commit()
    middle, reach = 0.5 * 0.505, 0.5 * 0.495
    expected = [middle + reach * math.cos(math.pi * step / 4) for step in range(4)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("margin", ["a1", "a2"])
def test_the_margin_makes_the_classes_harder(teacher: TappedTeacher, margin: MarginMode) -> None:
    settings = replace(SETTINGS, generator_steps=1)
    _, plain = trained(teacher, settings)
    _, harder = trained(teacher, settings, margin)
    assert harder["classes"] > plain["classes"]
    assert harder["angle"] == plain["angle"]
    assert harder["hit_rate"] == plain["hit_rate"]
    assert 0 < harder["angle"] < torch.pi


def test_the_margin_needs_a_linear_head(teacher: TappedTeacher) -> None:
    headless = TappedTeacher(teacher.graph, teacher.statistics, None)
    _, with_margin = trained(headless, margin="a1")
    _, without = trained(headless)
    assert with_margin == without
    assert "angle" not in without


def test_every_step_is_reported(teacher: TappedTeacher) -> None:
    events: list[ProgressEvent] = []
    _, terms = trained(teacher, progress=events.append)
    assert [event.step for event in events] == [0, 1, 2]
    assert {event.stage for event in events} == {"generator"}
    assert dict(events[-1].metrics) == terms
    assert terms.keys() == {"statistics", "classes", "diversity", "hit_rate", "angle"}


def test_an_overflowing_teacher_is_divergence(teacher: TappedTeacher) -> None:
    endless = tuple(type(s)(torch.full_like(s.mean, 1e30), s.var) for s in teacher.statistics)
    broken = TappedTeacher(teacher.graph, endless, teacher.classifier)
    with pytest.raises(DivergenceError, match=r"generator stage.*statistics inf.*at step 2"):
        trained(broken)


class Rows(nn.Module):
    """BatchNorm over vectors, or over rows ``[N, C, L]``, and none over maps."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.first = nn.Linear(3 * 12 * 12, 8 * length)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8 * length, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x.flatten(1))
        if self.length > 1:
            rows = rows.view(-1, 8, self.length)
        logits: Tensor = self.head(self.norm(rows).relu().flatten(1))
        return logits


@pytest.mark.parametrize("make", [Upsampling, lambda: Rows(1), lambda: Rows(4)])
def test_unusual_networks_train_too(make: Callable[[], nn.Module]) -> None:
    other = tap_batch_norms(graph_of(make()))
    _, first = trained(other, replace(SETTINGS, generator_steps=1))
    _, last = trained(other, replace(QUICK, generator_steps=20, class_weight=0.0))
    assert all(torch.tensor(list(first.values())).isfinite())
    assert last["statistics"] < first["statistics"]
