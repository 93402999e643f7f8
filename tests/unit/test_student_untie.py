"""Weight scales without rounding ties."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frozen_graphs import FrozenGraphBuilder, aten, residual_student

from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import QParams
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.untie import (
    LOOSE_FACTOR,
    MAX_NUDGE,
    RELATIVE_ERROR,
    count_ties,
    nearby_scales,
    untie,
    untie_scales,
)

pytestmark = pytest.mark.unit


def output(scale: float, qmin: int, qmax: int) -> QParams:
    zero = torch.tensor(0, dtype=torch.int32)
    return QParams("activation", torch.tensor(scale), zero, qmin, qmax, 8)


def test_an_exact_tie_is_found_and_removed() -> None:
    # acc * 0.5 is a half for every odd acc.
    scale_x, scale_w, y = torch.tensor(0.25), torch.tensor([0.125, 0.1]), output(0.0625, 0, 15)
    before = count_ties(scale_x, scale_w, y)
    assert before[0] == 15
    scale = untie_scales(scale_x, scale_w, y)
    assert count_ties(scale_x, scale, y).tolist() == [0, 0]


@pytest.mark.parametrize("zero_point", [-3, 0, 4, 5, 13])
def test_only_halves_within_the_range_count(zero_point: int) -> None:
    y = replace(output(0.25, 0, 13), zero_point=torch.tensor(zero_point))
    products = 1.5 * torch.arange(-99, 100)
    halves = products[products % 1 == 0.5] + zero_point
    expected = int(((halves > 0) & (halves < 13)).sum())
    assert count_ties(torch.tensor(0.75), torch.tensor([0.5]), y).tolist() == [expected]


def test_candidates_go_as_far_as_they_may_and_the_nearest_comes_first() -> None:
    scale = torch.tensor([1.0, 0.037])
    apart = (nearby_scales(scale).double() / scale.double()[:, None] - 1).abs()
    assert apart[:, 0].tolist() == [0.0, 0.0]
    assert bool((apart.diff(dim=1) >= -(2.0**-23)).all())
    torch.testing.assert_close(
        apart[:, -2:], torch.full((2, 2), MAX_NUDGE).double(), rtol=1e-2, atol=0
    )


@settings(max_examples=30)
@given(st.floats(0.001, 0.1), st.floats(0.001, 0.1), st.floats(0.01, 0.2), st.integers(0, 99))
def test_scales_stay_close_and_never_get_worse(x: float, w: float, y: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale_w = w * (0.1 + torch.rand(6, generator=generator))
    result, quantizer = torch.tensor(x), output(y, -128, 127)
    scale = untie_scales(result, scale_w, quantizer)
    assert ((scale / scale_w - 1).abs() <= MAX_NUDGE * 1.01).all()
    assert (count_ties(result, scale, quantizer) <= count_ties(result, scale_w, quantizer)).all()


def test_the_integers_stay() -> None:
    model = residual_student(4, 8)
    weights = {name: layer.weight_q.clone() for name, layer in model.layers().items()}
    biases = {name: _bias_steps(model, name) for name in weights}
    table = untie(model.graph, model.table)
    moved = 0
    for name, layer in model.layers().items():
        assert torch.equal(layer.weight_q, weights[name])
        assert torch.equal(layer.weight_scale, table[name].scale)
        torch.testing.assert_close(_bias_steps(model, name), biases[name], rtol=2e-7, atol=0)
        moved += int((layer.weight_scale != model.table[name].scale).sum())
    assert moved > 0
    last = list(weights)[-1]
    assert torch.equal(table[last].scale, model.table[last].scale)


def test_a_clip_that_is_tighter_than_the_quantizer_is_looked_through() -> None:
    b = FrozenGraphBuilder(torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(5)))
    x = b.layer(b.quantize_with(b.input, 1 / 64, 0, -128, 127, 8), 4)
    x = b.call(aten.hardtanh.default, x, 0.0, 6.0)
    x = b.call(aten.mean.dim, b.quantize_with(x, 1 / 16, 0, 0, 127, 8), [2, 3], True)
    x = b.call(aten.view.default, b.quantize(x, 8), [-1, 4])
    model = b.finish(b.layer(x, 4, spec=LayerSpec("linear")))
    layer = next(iter(model.layers().values()))
    # acc / 512 is a half for every odd multiple of 256.
    layer.weight_scale.fill_(1 / 128)
    read, written = list(model.quantizers().values())[:2]
    ties = count_ties(read.qparams.scale, layer.weight_scale, written.qparams)
    assert ties.tolist() == [127] * 4
    untie(model.graph, model.table)
    ties = count_ties(read.qparams.scale, layer.weight_scale, written.qparams)
    assert ties.tolist() == [0] * 4


def test_simulation_in_double_precision_equals_the_student_up_to_float32() -> None:
    model = residual_student(4, 4)
    x = torch.randn(20, *model.input_shape, generator=torch.Generator().manual_seed(1))
    exact, plain = exact_logits(model, x), model.logits(x)
    assert exact.dtype == torch.float32
    assert torch.isclose(exact, plain, atol=1e-4).all(1).double().mean() >= 0.9


def _bias_steps(model: QuantizedModel, name: str) -> torch.Tensor:
    layer = model.layers()[name]
    assert layer.bias is not None
    scale_x = model.table[layer.input_quantizer].scale.double()
    return layer.bias.double() / (scale_x * layer.weight_scale.double())


def test_among_scales_without_ties_one_is_taken_that_a_float32_sum_does_not_bring_near() -> None:
    # acc * M lies beside k + 1/2 by ten units of the scale's last place, and no tie is that far.
    loose = LOOSE_FACTOR * RELATIVE_ERROR
    scale_x, y = torch.tensor(0.25), output(0.0625, 0, 15)
    scale_w = torch.tensor([0.125, 0.1]) * (1 + 10 * 2.0**-23)
    assert count_ties(scale_x, scale_w, y).tolist() == [0, 0]
    assert count_ties(scale_x, scale_w, y, loose)[0] == 15
    scale = untie_scales(scale_x, scale_w, y)
    assert count_ties(scale_x, scale, y, loose).tolist() == [0, 0]
