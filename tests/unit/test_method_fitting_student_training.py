"""Training of the student: it comes closer to its float twin, repeatably, by every switch."""

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.contexts import ON_CPU
from support.small_networks import (
    SHAPE,
    ConvolutionHead,
    Residual,
    calibrated,
    images,
)
from torch import Tensor, fx

from lrq_deploy.errors import DivergenceError
from lrq_deploy.method.fitting.augmented_batches import VIEWS, AugmentedBatches
from lrq_deploy.method.fitting.student_training import (
    WARM_UP_STEPS,
    StudentTraining,
    _schedule,
)
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps import precision
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MarginMode, MethodSwitches
from lrq_deploy.progress import ProgressEvent, silent
from lrq_deploy.ranks import Ranks
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.head_input import with_head_input
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, float_twin
from lrq_deploy.task import Task

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(student_steps=2, batch_size=16)
SWITCHES = MethodSwitches(margin="off")
POOL = images(64)


@pytest.fixture(scope="module")
def start() -> fx.GraphModule:
    return calibrated(Residual(), Scheme(3, 3, 8), count=16)


def trained(
    start: fx.GraphModule,
    settings: RecipeSettings = SETTINGS,
    switches: MethodSwitches = SWITCHES,
    seed: int = 0,
    progress: Any = silent,
) -> tuple[fx.GraphModule, dict[str, float]]:
    student = copy.deepcopy(start)
    twin = float_twin(student)
    context = replace(ON_CPU, seed=seed, progress=progress)
    training = StudentTraining(student, twin, POOL, settings, switches, "multiclass", context)
    return student, run_stage(training, context)


def state(student: fx.GraphModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in student.parameters()])


def test_overlays_are_seen(start: fx.GraphModule) -> None:
    shown = []
    for overlays in (POOL[:0], POOL[:3], 2 * POOL[:3]):
        student = copy.deepcopy(start)
        about = (student, float_twin(student), POOL, SETTINGS, SWITCHES)
        run_stage(StudentTraining(*about, "multiclass", ON_CPU, overlays), ON_CPU)
        shown.append(state(student))
    plain, blended, brighter = shown
    assert torch.equal(plain, state(trained(start)[0]))
    assert not torch.equal(plain, blended)
    assert not torch.equal(blended, brighter)


def test_the_student_comes_closer_to_its_float_twin(start: fx.GraphModule) -> None:
    _, first = trained(start, replace(SETTINGS, student_steps=1))
    quick = replace(SETTINGS, student_steps=100, weight_rate=2e-2, scale_rate=1e-2)
    _, last = trained(start, quick)
    assert last["features"] < 0.9 * first["features"]
    # Logits of random weights hardly depend on the image, so that little is left to distil.
    assert last["distillation"] < 0.95 * first["distillation"]


def test_a_seed_decides_everything(start: fx.GraphModule) -> None:
    first, _ = trained(start)
    torch.rand(3)
    again, _ = trained(start)
    other, _ = trained(start, seed=1)
    assert torch.equal(state(first), state(again))
    assert not torch.equal(state(first), state(other))


def test_weights_biases_and_scales_all_learn(start: fx.GraphModule) -> None:
    student, _ = trained(start)
    before = dict(start.named_modules())
    for name, module in student.named_modules():
        if isinstance(module, QuantizedLayer):
            old = before[name]
            assert isinstance(old, QuantizedLayer)
            assert not torch.equal(module.weight, old.weight), name
            assert not torch.equal(module.log_scale, old.log_scale), name
            assert module.bias is not None
            assert old.bias is not None
            assert not torch.equal(module.bias, old.bias), name


def test_known_and_fine_ranges_stay_and_coarse_ones_learn(start: fx.GraphModule) -> None:
    student, _ = trained(start, replace(SETTINGS, scale_rate=0.1))
    before = dict(start.named_modules())
    moved: dict[tuple[bool, int], set[bool]] = {}
    for name, module in student.named_modules():
        if isinstance(module, ActQuantizer):
            old = before[name]
            assert isinstance(old, ActQuantizer)
            kind = module.known_range is not None, module.bounds.levels
            moved.setdefault(kind, set()).add(not torch.equal(module.log_scale, old.log_scale))
    still = {(True, 256): {False}, (False, 128): {False}, (False, 256): {False}}
    assert moved == still | {(False, 8): {True}}


@pytest.mark.parametrize(
    ("switches", "settings"),
    [
        (MethodSwitches(decoupled=False, margin="off"), SETTINGS),
        (MethodSwitches(margin="b"), SETTINGS),
        (SWITCHES, replace(SETTINGS, feature_weight=0.0)),
        (SWITCHES, replace(SETTINGS, temperature=1.0)),
        (SWITCHES, replace(SETTINGS, other_weight=8.0)),
    ],
    ids=["plain", "margin-b", "no-features", "cold", "other-classes"],
)
def test_every_switch_acts(
    start: fx.GraphModule, switches: MethodSwitches, settings: RecipeSettings
) -> None:
    reference, _ = trained(start)
    changed, _ = trained(start, settings, switches)
    assert not torch.equal(state(reference), state(changed))


def first_losses(
    start: fx.GraphModule, settings: RecipeSettings, switches: MethodSwitches, task: Task
) -> tuple[dict[str, float], fx.GraphModule, Tensor, Tensor, Tensor, Tensor]:
    """Terms of a first step; then, in float64, logits and head inputs of student and teacher.

    The teacher is a little off, so that the student often answers otherwise.
    """
    settings = replace(settings, student_steps=1, reduced_precision=False)
    student, teacher = copy.deepcopy(start), float_twin(start)
    with torch.no_grad():
        bias = layers(teacher)[-1].bias
        assert bias is not None
        batch = AugmentedBatches(POOL, settings.batch_size, 0).draw().images
        bias.sub_(teacher(batch).mean(0))
    told = [x.double() for graph in (student, teacher) for x in with_head_input(graph)(batch)]
    assert 0 < int((told[0].argmax(1) == told[2].argmax(1)).sum()) < len(batch)
    learning = copy.deepcopy(student)
    training = StudentTraining(learning, teacher, POOL, settings, switches, task, ON_CPU)
    terms = run_stage(training, ON_CPU)
    return terms, student, *told


@pytest.mark.parametrize("margin", ["off", "b"])
def test_the_losses_are_the_published_ones(start: fx.GraphModule, margin: MarginMode) -> None:
    """Decoupled distillation, a relative squared error, and the cross entropy of ArcFace."""
    settings = replace(SETTINGS, class_weight=0.3, other_weight=2.0, temperature=0.2)
    found = first_losses(start, settings, MethodSwitches(margin=margin), "multiclass")
    terms, student, logits, features, wanted, wanted_features = found
    labels = wanted.argmax(1)
    p, q = ((x / settings.temperature).softmax(1) for x in (wanted, logits))
    here, there = (x.gather(1, labels[:, None])[:, 0] for x in (p, q))
    binary = here * (here / there).log() + (1 - here) * ((1 - here) / (1 - there)).log()
    others = torch.ones_like(p).scatter(1, labels[:, None], 0)
    p, q = (x * others / (1 - mine)[:, None] for x, mine in ((p, here), (q, there)))
    rest = (torch.xlogy(p, p) - torch.xlogy(p, q)).where(others > 0, 0.0).sum(1)
    distilled = settings.temperature**2 * (binary + 2 * rest).mean()
    assert terms["distillation"] == pytest.approx(distilled.item(), rel=1e-3)
    error = (features - wanted_features).square().sum() / wanted_features.square().sum()
    assert terms["features"] == pytest.approx(error.item(), rel=1e-3)
    centres = layers(student)[-1].quantized_weight().double()[labels]
    length = features.norm(dim=1) * centres.norm(dim=1)
    angle = ((features * centres).sum(1) / length).acos()
    moved = length * ((angle + settings.margin).cos() - angle.cos())
    logits = logits.scatter_add(1, labels[:, None], moved[:, None])
    crossed = 0.3 * F.cross_entropy(logits, labels).item() if margin == "b" else 0.0
    assert terms["margin"] == pytest.approx(crossed, rel=1e-3)


def test_labels_that_stand_on_their_own_are_told_apart_one_by_one(start: fx.GraphModule) -> None:
    settings = replace(SETTINGS, temperature=2.0)
    terms, _, logits, _, wanted, _ = first_losses(start, settings, SWITCHES, "multilabel")
    yes, mine = ((x / 2).sigmoid() for x in (wanted, logits))
    apart = yes * (yes / mine).log() + (1 - yes) * ((1 - yes) / (1 - mine)).log()
    assert terms["distillation"] == pytest.approx(4 * apart.sum(1).mean().item(), rel=1e-3)


def test_all_terms_are_minimised(start: fx.GraphModule) -> None:
    settings = replace(SETTINGS, feature_weight=3.0)
    stage = StudentTraining(
        copy.deepcopy(start), float_twin(start), POOL, settings, SWITCHES, "multiclass", ON_CPU
    )
    distilled, error, size, margin = (torch.tensor([x]) for x in (1.0, 20.0, 2.0, 100.0))
    total, _ = stage._loss(distilled, error, size, margin)
    assert float(total) == 1 + 3 * 10 + 100


def test_the_feature_loss_of_ranks_is_that_of_the_whole_batch(start: fx.GraphModule) -> None:
    """Parts of other sizes of features weigh by these sizes, as in one process."""
    stage = StudentTraining(
        copy.deepcopy(start), float_twin(start), POOL, SETTINGS, SWITCHES, "multiclass", ON_CPU
    )
    errors, sizes = torch.tensor([1.0, 6.0]), torch.tensor([10.0, 2.0])
    features = []
    for error, size in zip(errors, sizes, strict=True):
        stage._ranks = Pooling()
        nothing = torch.zeros(1)
        _, losses = stage._loss(nothing, error[None], size[None], nothing)
        features.append(losses.features)
    torch.testing.assert_close(torch.stack(features).mean(), errors.sum() / sizes.sum())


class Pooling(Ranks):
    """Pools to what both ranks would give."""

    def pooled(self, moments: Tensor) -> Tensor:
        return torch.tensor(6.0)


def test_margin_b_has_a_term_of_its_own(start: fx.GraphModule) -> None:
    _, terms = trained(start, switches=MethodSwitches(margin="b"))
    assert terms["margin"] > 0
    _, without = trained(start)
    assert without["margin"] == 0
    assert terms.keys() == without.keys() == {"distillation", "features", "margin"}


def test_a_convolution_head_has_no_margin() -> None:
    start = calibrated(ConvolutionHead(), shape=SHAPE)
    _, terms = trained(start, switches=MethodSwitches(margin="b"))
    assert terms["margin"] == 0
    assert terms["distillation"] > 0


def test_every_step_is_reported(start: fx.GraphModule) -> None:
    events: list[ProgressEvent] = []
    _, terms = trained(start, progress=events.append)
    assert [event.step for event in events] == [0, 1, 2]
    assert {event.stage for event in events} == {"student"}
    assert dict(events[-1].metrics) == terms


def test_an_infinite_rate_is_divergence_and_the_state_comes_back(start: fx.GraphModule) -> None:
    student = copy.deepcopy(start)
    settings = replace(SETTINGS, weight_rate=float("inf"))
    about = (student, float_twin(student), POOL, settings, SWITCHES)
    with pytest.raises(DivergenceError, match=r"student stage.*distillation"):
        run_stage(StudentTraining(*about, "multiclass", ON_CPU), ON_CPU)
    assert bool(state(student).isfinite().all())
    assert torch.equal(state(student), state(start))


def layers(student: fx.GraphModule) -> list[QuantizedLayer]:
    return [module for module in student.modules() if isinstance(module, QuantizedLayer)]


def test_the_result_is_the_mean_of_the_last_steps(start: fx.GraphModule) -> None:
    settings = replace(SETTINGS, student_steps=4, averaged_share=0.0)
    student = copy.deepcopy(start)
    twin = float_twin(student)
    stage = StudentTraining(student, twin, POOL, settings, SWITCHES, "multiclass", ON_CPU)
    seen = []
    for _ in range(4):
        stage.step()
        stage.commit()
        seen.append(state(student))
    averaged, _ = trained(start, replace(settings, averaged_share=0.5))
    torch.testing.assert_close(state(averaged), (seen[2] + seen[3]) / 2)
    last, _ = trained(start, settings)
    assert torch.equal(state(last), seen[3])


def test_the_teacher_is_asked_once_for_each_view_and_a_stop_forgets_nothing(
    start: fx.GraphModule,
) -> None:
    """Two images, so that all views are known after ``VIEWS`` steps."""
    settings = replace(SETTINGS, student_steps=VIEWS + 4, batch_size=2)

    def stage() -> tuple[StudentTraining, list[int]]:
        student, asked = copy.deepcopy(start), list[int]()
        twin = float_twin(student)
        layers(twin)[0].register_forward_hook(lambda _, seen, __: asked.append(len(seen[0])))
        pool = POOL[:2]
        made = StudentTraining(student, twin, pool, settings, SWITCHES, "multiclass", ON_CPU)
        return made, asked

    whole, asked = stage()
    for done in range(settings.student_steps):
        if done == VIEWS + 1:
            kept = copy.deepcopy(whole.state_dict())
        whole.step()
        whole.commit()
    assert asked == [2] * VIEWS
    rest, asked = stage()
    rest.load_state_dict(kept)
    while rest.steps_done < rest.steps:
        rest.step()
        rest.commit()
    assert asked == []
    for name, value in whole.watched.state_dict().items():
        assert torch.equal(value, rest.watched.state_dict()[name]), name


def test_the_rate_rises_and_falls_by_half_a_cosine_to_the_last_step() -> None:
    rates = [_schedule(step, 400) for step in range(400)]
    assert rates[0] == pytest.approx(1 / WARM_UP_STEPS, rel=0.01)
    assert rates.index(max(rates)) == WARM_UP_STEPS - 1
    assert all(before > after > 0 for before, after in pairwise(rates[WARM_UP_STEPS:]))
    assert [rates[step] for step in (100, 200, 300)] == pytest.approx([0.854, 0.5, 0.146], abs=1e-3)
    assert rates[-1] < 1e-4
    assert [_schedule(step, 1) for step in (0,)] == [1.0]


@pytest.mark.parametrize(
    ("bits", "wanted", "used"),
    [
        (2, True, torch.bfloat16),
        (4, True, torch.bfloat16),
        (4, False, torch.float32),
        (5, True, torch.float32),
        (8, True, torch.float32),
    ],
)
def test_only_a_coarse_student_is_multiplied_in_bfloat16(
    bits: int, wanted: bool, used: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    student = calibrated(Residual(), Scheme(bits, 8, 8))
    seen = set[torch.dtype]()
    twin = float_twin(student)
    for layer in (*layers(student), *layers(twin)):
        layer.register_forward_hook(lambda _, __, result: seen.add(result.dtype))
    settings = replace(SETTINGS, student_steps=1, batch_size=4, reduced_precision=wanted)
    training = StudentTraining(student, twin, POOL, settings, SWITCHES, "multiclass", ON_CPU)
    run_stage(training, ON_CPU)
    assert seen == {used}
