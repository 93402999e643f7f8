"""Freezing: the integers that ship compute what was trained."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    ALL,
    CENTRED,
    Mobile,
    Residual,
    calibrated,
    conv_bn,
    graph_of,
    images,
)
from torch import Tensor, fx, nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.qparams import QParams
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.absorb import absorb_rectifiers
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.student.untie import MAX_NUDGE
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.unit

aten = torch.ops.aten

SCHEMES = [
    Scheme(8, 8, 8),
    Scheme(4, 4, 8),
    Scheme(2, 2, None),
    Scheme(4, 4, 8, act_symmetry="asymmetric"),
]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.describe() + s.act_symmetry)
def test_the_frozen_graph_gives_the_bits_of_the_student(name: str, scheme: Scheme) -> None:
    student = calibrated(ALL[name](), scheme).eval()
    frozen, table = freeze(student, nudge=False)
    x = images(4, seed=9)
    with torch.no_grad():
        assert torch.equal(student(x), frozen(x))
    names = {n for n, m in frozen.named_modules() if isinstance(m, FrozenLayer | FrozenQuantizer)}
    assert set(table.entries) == names
    for path, entry in table.entries.items():
        module = student.get_submodule(path)
        assert isinstance(module, ActQuantizer | QuantizedLayer)
        assert torch.equal(entry.scale, module.scale)
        assert (entry.bits, entry.qmin, entry.qmax) == (
            module.bits,
            module.bounds.qmin,
            module.bounds.qmax,
        )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.describe() + s.act_symmetry)
def test_integers_and_biases_are_on_their_grids(name: str, scheme: Scheme) -> None:
    frozen, table = freeze(calibrated(ALL[name](), scheme))
    for path, layer in frozen.named_modules():
        if not isinstance(layer, FrozenLayer):
            continue
        weight, act = table[path], table[layer.input_quantizer]
        assert layer.weight_q.dtype == torch.int8
        assert weight.qmin <= int(layer.weight_q.min()) <= int(layer.weight_q.max()) <= weight.qmax
        assert int(layer.weight_q.abs().max()) * 2 * (act.qmax - act.qmin) <= 2**15 - 1
        assert act.qmin <= int(act.zero_point) <= act.qmax or int(act.zero_point) == 0
        assert torch.equal(weight.scale, layer.weight_scale)
        if layer.bias is not None:
            scales = weight.scale.repeat(layer.bias.numel() // weight.scale.numel())
            steps = layer.bias.double() / (act.scale * scales).double()
            off = (steps - steps.round()).abs()
            assert bool((off <= 1e-3 + steps.abs() * 2.0**-22).all())


def test_nudged_scales_stay_close_and_the_argument_is_unchanged() -> None:
    student = calibrated(Residual())
    before = {k: v.clone() for k, v in student.state_dict().items()}
    (_, plain), (_, nudged) = freeze(student, nudge=False), freeze(student)
    for name, entry in plain.entries.items():
        ratio = nudged[name].scale.double() / entry.scale.double() - 1
        assert float(ratio.abs().max()) <= MAX_NUDGE * 1.01
    assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())


def test_a_bias_that_would_overflow_widens_the_scale() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_bn(3, 4)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(F.relu(self.stem(x)).mean((2, 3)))
            return result

    graph = graph_of(Dead())
    with torch.no_grad():
        graph.get_parameter("stem.1.weight")[1] = 0.0
    student = place_quantizers(fold_batch_norm(graph), Scheme(), PORTABLE, CENTRED)
    calibrate(student, images(), symmetric=True, seed=0)
    frozen, _ = freeze(student)
    layer = student.get_submodule("layers.stem_0")
    shipped = frozen.get_submodule("layers.stem_0")
    assert isinstance(layer, QuantizedLayer)
    assert isinstance(shipped, FrozenLayer)
    assert not shipped.weight_q[1].any()
    torch.testing.assert_close(shipped.bias, layer.bias, rtol=1e-2, atol=1e-3)


def rectified(
    rectifier: tuple[Any, ...], scale: float, qmin: int, qmax: int, zero_point: int = 0
) -> fx.GraphModule:
    """``rectifier`` in front of one quantizer."""
    root = nn.Module()
    qparams = QParams(
        "activation",
        torch.tensor(scale),
        torch.tensor(zero_point, dtype=torch.int32),
        qmin,
        qmax,
        4,
    )
    root.add_module("quantizer", FrozenQuantizer(qparams))
    graph = fx.Graph()
    x = graph.placeholder("input")
    target, *args = rectifier
    y = graph.call_function(target, (x, *args))
    graph.output(graph.call_module("quantizer", (y,)))
    return fx.GraphModule(root, graph)


RELU6 = (aten.hardtanh.default, 0.0, 6.0)


@pytest.mark.parametrize(
    ("rectifier", "scale", "bounds", "absorbed"),
    [
        ((aten.relu.default,), 0.5, (0, 15, 0), True),
        ((aten.relu.default,), 0.5, (-8, 7, 0), False),
        ((aten.relu.default,), 0.5, (0, 15, 4), False),
        ((aten.relu6.default,), 6 / 15, (0, 15, 0), True),
        (RELU6, 6 / 15, (0, 15, 0), True),
        (RELU6, 6 / 14.6, (0, 15, 0), True),
        (RELU6, 6 / 14.4, (0, 15, 0), False),
        (RELU6, 6 / 20, (0, 15, 0), True),
        ((aten.hardtanh.default,), 0.25, (-2, 1, 0), True),
        ((aten.hardtanh.default,), 0.05, (-8, 7, 0), True),
        ((aten.hardtanh.default,), 0.5, (-8, 7, 0), False),
        ((aten.clamp.default, 0), 0.5, (0, 15, 0), True),
        ((aten.clamp.default, None, 6.0), 0.1, (0, 15, 0), True),
        ((aten.clamp.default, 0.5), 0.5, (0, 15, 0), False),
        ((aten.clamp_min.default, 0), 0.5, (0, 15, 0), True),
        ((aten.clamp_max.default, 6.0), 0.5, (0, 15, 0), False),
        ((aten.clamp_max.default, 6.0), 0.1, (0, 15, 0), True),
        ((aten.sigmoid.default,), 0.01, (0, 15, 0), False),
    ],
)
def test_rectifiers_are_absorbed_where_nothing_changes(
    rectifier: tuple[Any, ...], scale: float, bounds: tuple[int, int, int], absorbed: bool
) -> None:
    qmin, qmax, zero_point = bounds
    graph = rectified(rectifier, scale, qmin, qmax, zero_point)
    x = torch.linspace(-20, 20, 4001)
    before = graph(x)
    absorb_rectifiers(graph)
    graph.recompile()
    assert torch.equal(graph(x), before)
    assert len(graph.graph.nodes) == (3 if absorbed else 4)


def test_a_rectifier_that_something_else_reads_stays() -> None:
    graph = rectified((aten.relu.default,), 0.5, 0, 15)
    (quantized,) = graph.graph.output_node().all_input_nodes
    with graph.graph.inserting_after(quantized):
        both = graph.graph.call_function(aten.add.Tensor, (quantized, quantized.args[0]))
    graph.graph.output_node().args = (both,)
    graph.recompile()
    x = torch.linspace(-20, 20, 4001)
    before = graph(x)
    absorb_rectifiers(graph)
    graph.recompile()
    assert torch.equal(graph(x), before)


def test_two_rectifiers_are_absorbed_as_the_narrower_one() -> None:
    graph = rectified((aten.relu6.default,), 6 / 20, 0, 15)
    (x, clip, quantizer, _) = graph.graph.nodes
    with graph.graph.inserting_before(clip):
        first = graph.graph.call_function(aten.clamp.default, (x, -1.0, 5.0))
    clip.args = (first,)
    absorb_rectifiers(graph)
    assert quantizer.args == (x,)
    assert quantizer.meta["clip"] == (0.0, 5.0)


def test_relu6_is_gone_from_a_calibrated_student() -> None:
    frozen, _ = freeze(calibrated(Mobile(), Scheme(4, 4, 8)))
    called = {n.target for n in frozen.graph.nodes if n.op == "call_function"}
    assert aten.relu.default not in called
    assert not [n for n in frozen.graph.nodes if n.op == "get_attr"]
