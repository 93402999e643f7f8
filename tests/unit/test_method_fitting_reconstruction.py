"""Block reconstruction: blocks come closer to the teacher's, repeatably, and can be continued."""

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import ALL, Residual, calibrated, images, quantizers
from torch import Tensor, fx

from lrq_deploy.errors import DivergenceError
from lrq_deploy.method.fitting import reconstruction
from lrq_deploy.method.fitting.reconstruction import (
    FREE_SHARE,
    BlockReconstruction,
    _sharpness,
)
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, float_twin

pytestmark = pytest.mark.unit

SETTINGS = RecipeSettings(block_steps=3, batch_size=16)
POOL = images(64)


@pytest.fixture(scope="module")
def start() -> fx.GraphModule:
    return calibrated(Residual(), Scheme(3, 3, 8), count=16)


def fitted(
    start: fx.GraphModule, settings: RecipeSettings = SETTINGS, seed: int = 0
) -> fx.GraphModule:
    student = copy.deepcopy(start)
    context = replace(ON_CPU, seed=seed)
    run_stage(BlockReconstruction(student, float_twin(student), POOL, settings, context), context)
    return student


def state(student: fx.GraphModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in student.parameters()])


def test_a_block_comes_closer_to_its_teacher(start: fx.GraphModule) -> None:
    settings = replace(SETTINGS, block_steps=60, batch_size=64, float_share=0.0)
    student = copy.deepcopy(start)
    stage = BlockReconstruction(student, float_twin(student), POOL, settings, ON_CPU)
    errors = []
    for _ in range(stage.steps):
        stage.step()
        stage.commit()
        errors.append(stage.terms()["error"])
    # The third block starts with an error that its scales and rounding can halve.
    assert errors[179] < 0.7 * errors[120]


@pytest.mark.parametrize("block", [0, 1])
def test_the_error_is_relative_to_how_much_images_differ(start: fx.GraphModule, block: int) -> None:
    """Offsets that all images share are no part of it."""
    settings = replace(SETTINGS, float_share=0.0, block_steps=1, reduced_precision=False)
    student = copy.deepcopy(start)
    stage = BlockReconstruction(
        student, float_twin(student), POOL, settings, replace(ON_CPU, seed=7)
    )
    for _ in range(block):
        stage.step()
        stage.commit()
    stage.prepare()
    assert stage._block is not None
    for quantizer in stage._block._quantizers:
        assert (quantizer.float_mix is None) == (quantizer.known_range is not None)
    maps, graph, random = stage._block._maps, stage._block._graph, stage._block._random
    before = random.get_state()
    chosen = torch.randint(64, (16,), generator=random)
    error = (graph(maps.read[chosen]) - maps.wanted[chosen]).double().square().mean()
    spread = (maps.wanted - maps.wanted.mean(0)).double().square().sum(0).mean() / 63
    random.set_state(before)
    stage.step()
    assert stage.terms()["error"] == pytest.approx((error / spread).item(), rel=1e-4)


def test_a_block_reads_the_student_and_in_places_the_teacher(start: fx.GraphModule) -> None:
    settings = replace(SETTINGS, float_share=0.25, block_steps=1)
    student = copy.deepcopy(start)
    twin = float_twin(student)
    stage = BlockReconstruction(student, twin, POOL, settings, ON_CPU)
    stage.step()
    stage.commit()
    stage.prepare()
    block = stage._block
    assert block is not None
    maps, seen, error = block._maps, list[Tensor](), block._error
    block._error = lambda read, wanted: (seen.append(read), error(read, wanted))[1]  # type: ignore[method-assign, func-returns-value]
    stage.step()
    chosen = torch.randint(64, (16,), generator=torch.Generator().manual_seed(1))
    mine, ideal = maps.read[chosen], maps.ideal[chosen]
    apart = mine != ideal
    assert float(apart.float().mean()) > 0.1
    assert float((seen[0] == ideal)[apart].float().mean()) == pytest.approx(0.25, abs=0.05)
    assert bool(((seen[0] == ideal) | (seen[0] == mine)).all())


@pytest.mark.parametrize(("name", "shared"), [("dense", "conv2d"), ("shuffle", "relu")])
def test_a_scale_is_learned_with_the_first_block_that_reads_it(name: str, shared: str) -> None:
    student = calibrated(ALL[name](), Scheme(3, 3, None, residual_bits=None), count=16)
    stage = BlockReconstruction(student, float_twin(student), POOL, SETTINGS, ON_CPU)
    blocks = stage.steps // SETTINGS.block_steps
    scales = [_scales(student)]
    for _ in range(blocks):
        for _ in range(SETTINGS.block_steps):
            stage.step()
            stage.commit()
        scales.append(_scales(student))
    moves = {name: sum(a[name] != b[name] for a, b in pairwise(scales)) for name in scales[0]}
    # Two blocks read the shared one; the image's range is known.
    assert moves[shared] == 1
    assert sorted(moves.values()) == [0, *[1] * (len(moves) - 1)]


def _scales(student: fx.GraphModule) -> dict[str, float]:
    return {name: quantizer.log_scale.item() for name, quantizer in quantizers(student).items()}


def test_a_seed_decides_everything(start: fx.GraphModule) -> None:
    first = fitted(start)
    torch.rand(3)
    assert torch.equal(state(first), state(fitted(start)))
    assert not torch.equal(state(first), state(fitted(start, seed=1)))


def test_weights_end_on_a_neighbour_of_where_they_were(start: fx.GraphModule) -> None:
    student = fitted(start, replace(SETTINGS, rounding_rate=1.0))
    moved = 0
    for name, layer in student.named_modules():
        if isinstance(layer, QuantizedLayer):
            before = start.get_submodule(name)
            assert isinstance(before, QuantizedLayer)
            shape = [-1] + [1] * (layer.weight.dim() - 1)
            steps = layer.weight / layer.scale.reshape(shape)
            torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
            change = (layer.quantized_weight() - before.quantized_weight()) / layer.scale.reshape(
                shape
            )
            assert change.abs().max() < 1.01
            moved += int((change.abs() > 0.5).sum())
            assert layer.rounding is None
    assert moved > 0
    assert all(q.float_mix is None for q in student.modules() if isinstance(q, ActQuantizer))


@pytest.mark.parametrize("stopped_at", [1, 3, 7])
def test_a_continued_fit_has_the_bits_of_an_unbroken_one(
    start: fx.GraphModule, stopped_at: int
) -> None:
    def stage(student: fx.GraphModule) -> BlockReconstruction:
        return BlockReconstruction(student, float_twin(start), POOL, SETTINGS, ON_CPU)

    first = stage(copy.deepcopy(start))
    for _ in range(stopped_at):
        first.step()
        first.commit()
    kept = copy.deepcopy(first.state_dict())
    second = stage(copy.deepcopy(start))
    second.load_state_dict(kept)
    run_stage(second, ON_CPU)
    assert torch.equal(state(second.watched), state(fitted(start)))


def test_large_maps_leave_room_for_one_batch(
    start: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(start)
    monkeypatch.setattr(reconstruction, "MAP_BYTES", 1)
    monkeypatch.setattr(reconstruction, "MAP_BATCH", 16)
    assert not torch.equal(state(fitted(start)), state(whole))


def test_a_pass_for_maps_takes_no_more_images_than_a_batch(
    start: fx.GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction, "MAP_BYTES", 1)
    seen: list[int] = []
    maps_of = reconstruction._maps

    def counted(*args: Any) -> Any:
        maps = maps_of(*args)
        seen.append(len(maps.read))
        return maps

    monkeypatch.setattr(reconstruction, "_maps", counted)
    fitted(start, replace(SETTINGS, batch_size=8))
    assert set(seen) == {8}


@pytest.mark.parametrize("name", ALL)
def test_every_construct_can_be_reconstructed(name: str) -> None:
    student = calibrated(ALL[name](), Scheme(4, 4, 8), count=16)
    stage = BlockReconstruction(student, float_twin(student), POOL, SETTINGS, ON_CPU)
    terms = run_stage(stage, ON_CPU)
    assert set(terms) == {"error", "undecided"}


def test_a_loss_that_is_not_finite_ends_the_fit(start: fx.GraphModule) -> None:
    student = copy.deepcopy(start)
    twin = float_twin(student)
    with torch.no_grad():
        next(p for n, p in twin.named_parameters() if n.endswith("weight")).fill_(torch.nan)
    with pytest.raises(DivergenceError, match="blocks"):
        run_stage(BlockReconstruction(student, twin, POOL, SETTINGS, ON_CPU), ON_CPU)
    assert torch.equal(state(student), state(start))


def test_the_rounding_is_free_in_the_first_fifth_of_the_steps(start: fx.GraphModule) -> None:
    """After it, what is undecided costs as much as its weight says."""
    steps = replace(SETTINGS, block_steps=10)
    preferences: list[list[Tensor]] = []
    for weight in (0.0, 1.0):
        settings = replace(steps, rounding_weight=weight)
        student = copy.deepcopy(start)
        stage = BlockReconstruction(student, float_twin(student), POOL, settings, ON_CPU)
        preferences.append([])
        for _ in range(4):
            stage.step()
            stage.commit()
            (rounding,) = stage.state_dict()["block"]["roundings"]
            preferences[-1].append(rounding["preference"].clone())
    same = [torch.equal(free, driven) for free, driven in zip(*preferences, strict=True)]
    assert same == [True, True, False, False]


def test_the_penalty_is_sharpest_while_it_is_not_yet_felt_and_ends_square() -> None:
    assert _sharpness(0.0) == _sharpness(FREE_SHARE) == 20
    assert _sharpness(0.6) == pytest.approx(11)
    assert _sharpness(1.0) == pytest.approx(2)
