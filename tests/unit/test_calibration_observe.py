"""Calibration: every scale is set, from the float network, the same way each time."""

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    ALL,
    CENTRED,
    Residual,
    calibrated,
    conv_bn,
    graph_of,
    images,
    placed,
    quantizers,
)
from torch import Tensor, fx, nn

from lrq_deploy.calibration import observe
from lrq_deploy.calibration.observe import calibrate, sample_activations
from lrq_deploy.calibration.ranges import search_act_range
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.operators import is_call
from lrq_deploy.scheme import ActSymmetry, Scheme
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.unit

aten = torch.ops.aten


def error(name: str, bits: int, symmetry: str) -> float:
    """Norm of the error relative to the logits of the float network."""
    scheme = Scheme(bits, bits, bits, act_symmetry=symmetry)  # type: ignore[arg-type]
    student = calibrated(ALL[name](), scheme, count=32)
    x = images(16, seed=5)
    with torch.no_grad():
        result = student(x)
        set_enabled(student, False)
        expected = student(x)
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
def test_eight_bits_come_close_to_the_float_network(name: str, symmetry: str) -> None:
    assert error(name, 8, symmetry) < min(0.1, error(name, 4, symmetry) / 2)


def test_every_scale_is_set_and_positive() -> None:
    student = calibrated(Residual())
    for quantizer in quantizers(student).values():
        assert quantizer.scale.item() > 0
        assert quantizer.log_scale.item() != 0.0
        assert quantizer.enabled
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            assert bool((module.log_scale != 0).all())
            assert module.enabled


def test_calibration_is_deterministic_and_batched() -> None:
    first, second = calibrated(Residual(), count=96), calibrated(Residual(), count=96)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_image_keeps_its_known_range() -> None:
    for symmetry, scale, zero_point in (("symmetric", 1 / 127, 0), ("asymmetric", 2 / 255, 128)):
        student = placed(Residual(), Scheme(act_symmetry=symmetry), CENTRED)  # type: ignore[arg-type]
        calibrate(student, images() * 0.1, symmetry == "symmetric", seed=0)
        image = next(iter(quantizers(student).values()))
        assert image.scale.item() == pytest.approx(scale, rel=1e-6)
        assert image.zero_point == zero_point
        assert image(torch.tensor(-1.0)).item() == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize(("bits", "headroom"), [(4, 1.0), (6, 1.0), (8, observe.HEADROOM)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_fine_ranges_go_beyond_the_searched_one(
    bits: int, headroom: float, symmetric: bool
) -> None:
    bounds = PORTABLE.act_range(bits, signed=False, symmetric=symmetric)
    quantizer = ActQuantizer(bounds, bits, signed=False)
    graph = fx.GraphModule({"quantizer": quantizer}, single_call("quantizer"))
    x = images(8).abs()
    calibrate(graph, x, symmetric, seed=0)
    scale, _ = search_act_range(x.flatten(), bounds, False, symmetric)
    assert quantizer.scale.item() == pytest.approx(scale * headroom, rel=1e-5)
    calibrate(graph, x, symmetric, seed=0, search=False)
    assert quantizer.scale.item() == pytest.approx(float(x.max()) / bounds.qmax, rel=1e-5)


@pytest.mark.parametrize(("reach", "largest"), [(6.0, 1.2), (1.1, 1.1), (0.9, 0.9)])
def test_headroom_ends_where_a_clamp_does(reach: float, largest: float) -> None:
    """Values of 1 and a clamp at ``reach``: a fifth more, but no further than that."""
    bounds = PORTABLE.act_range(8, signed=False, symmetric=True)
    clamped = fx.Graph()
    x = clamped.placeholder("x")
    y = clamped.call_function(torch.ops.aten.clamp.default, (x, 0.0, reach))
    y = clamped.call_function(torch.ops.aten.max_pool2d.default, (y, [1, 1]))
    clamped.output(clamped.call_module("quantizer", (y,)))
    quantizer = ActQuantizer(bounds, 8, signed=False)
    graph = fx.GraphModule({"quantizer": quantizer}, clamped)
    values = torch.ones(8, 3, 4, 4)
    calibrate(graph, values, True, seed=0)
    assert quantizer.scale.item() * bounds.qmax == pytest.approx(largest, rel=1e-5)


def test_a_limit_above_says_nothing_of_what_lies_below() -> None:
    bounds = PORTABLE.act_range(8, signed=True, symmetric=True)
    graph = single_call("quantizer")
    (call,) = graph.find_nodes(op="call_module", target="quantizer")
    with graph.inserting_before(call):
        call.args = (graph.call_function(aten.clamp_max.default, (call.args[0], 1.0)),)
    quantizer = ActQuantizer(bounds, 8, signed=True)
    calibrate(fx.GraphModule({"quantizer": quantizer}, graph), -torch.ones(8, 3), True, seed=0)
    assert quantizer.scale.item() * 128 == pytest.approx(observe.HEADROOM, rel=1e-5)


@pytest.mark.parametrize("reaches", [(1.1, 6.0), (6.0, 1.1)])
def test_a_shared_range_reaches_as_far_as_its_widest_tensor(reaches: tuple[float, float]) -> None:
    bounds = PORTABLE.act_range(8, signed=False, symmetric=True)
    graph = fx.Graph()
    x = graph.placeholder("x")
    parts = [graph.call_function(aten.clamp.default, (x, 0.0, reach)) for reach in reaches]
    calls = [graph.call_module("quantizer", (part,)) for part in parts]
    graph.output(graph.call_function(aten.cat.default, (calls, 1)))
    quantizer = ActQuantizer(bounds, 8, signed=False)
    calibrate(fx.GraphModule({"quantizer": quantizer}, graph), torch.ones(8, 3), True, seed=0)
    assert quantizer.scale.item() * bounds.qmax == pytest.approx(observe.HEADROOM, rel=1e-5)


class GateOfParts(nn.Module):
    """A hard-swish behind a concatenation and a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn(3, 8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.max_pool2d(torch.cat([x, x.flip(1)], 1), 2)
        logits: Tensor = self.head(F.hardswish(x).mean((2, 3)))
        return logits


def scale_of(student: fx.GraphModule, path: object) -> float:
    """Of the quantizer at ``path``."""
    quantizer = student.get_submodule(str(path))
    assert isinstance(quantizer, ActQuantizer)
    return float(quantizer.scale.detach())


def test_a_hard_swish_reads_its_quantizer_behind_movements() -> None:
    student = calibrated(GateOfParts(), Scheme(8, 8, 8))
    (gate,) = observe.read_by_hard_swish(student)
    scale = scale_of(student, gate)
    assert 3 / scale == pytest.approx(round(3 / scale), rel=1e-6)


class NormalisedGate(nn.Module):
    """The averages of a normalised map are 0 but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.instance_norm(self.stem(x))
        x = F.relu(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.head(F.avg_pool2d(x, 10).flatten(1))
        return logits


def test_no_average_is_finer_than_what_it_averages_over_their_count() -> None:
    student = calibrated(NormalisedGate(), Scheme(8, 8, 8))
    (average,) = (node for node in student.graph.nodes if is_call(node, {aten.mean.dim}))
    before, (behind,) = average.all_input_nodes[0], average.users
    finest = scale_of(student, before.target) / 100
    assert scale_of(student, behind.target) == pytest.approx(finest, rel=1e-5)
    (pool,) = (node for node in student.graph.nodes if is_call(node, {aten.avg_pool2d.default}))
    before, (behind,) = pool.all_input_nodes[0], pool.users
    finest = scale_of(student, before.target) / 100
    assert scale_of(student, behind.target) > 2 * finest


def test_all_values_of_a_window_count_that_is_no_square() -> None:
    bounds = PORTABLE.act_range(8, signed=True, symmetric=True)
    parts = {name: ActQuantizer(bounds, 8, signed=True) for name in ("read", "average")}
    graph = fx.Graph()
    read = graph.call_module("read", (graph.placeholder("x"),))
    pooled = graph.call_function(aten.avg_pool2d.default, (read, [2, 5]))
    graph.output(graph.call_module("average", (pooled,)))
    x = torch.full((4, 3, 4, 10), 1e-4)
    x[:, :, 0::2] += 1
    x[:, :, 1::2] -= 1
    student = fx.GraphModule(parts, graph)
    calibrate(student, x, True, seed=0)
    finest = scale_of(student, "read") / 10
    assert scale_of(student, "average") == pytest.approx(finest, rel=1e-5)


def test_a_pooling_that_enlarges_keeps_its_scale() -> None:
    class Enlarged(GateOfParts):
        def forward(self, x: Tensor) -> Tensor:
            x = F.adaptive_avg_pool2d(self.stem(x), 20)
            logits: Tensor = self.head(torch.cat([x, x], 1).mean((2, 3)))
            return logits

    student = calibrated(Enlarged(), Scheme(8, 8, 8))
    assert all(0 < float(q.scale.detach()) < 1 for q in quantizers(student).values())


class Enlarging(nn.Module):
    """A transposed convolution in two groups, which share the scales of three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.up(F.relu(self.stem(x)))).mean((2, 3)))
        return logits


def test_a_scale_has_room_for_the_biases_of_all_groups() -> None:
    graph = graph_of(Enlarging())
    with torch.no_grad():
        graph.get_parameter("up.weight")[:, 1] = 0.0
        graph.get_parameter("up.bias")[[1, 4]] = torch.tensor([5.0, 50.0])
    student = place_quantizers(fold_batch_norm(graph), Scheme(), PORTABLE, CENTRED)
    calibrate(student, images(), symmetric=True, seed=0)
    layer = student.get_submodule("layers.up")
    assert isinstance(layer, QuantizedLayer)
    assert layer.bias is not None
    steps = layer.scale.detach().repeat(2) * scale_of(student, layer.input_quantizer)
    widest = (layer.bias.detach().abs() / steps).reshape(2, 3).amax(0)
    assert widest[1].item() == pytest.approx(2.0**28, rel=1e-4)
    assert widest.max().item() < 1.001 * 2.0**28


@pytest.mark.parametrize(("largest", "divides"), [(4.0, True), (0.5, True), (60.0, False)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_three_is_a_multiple_of_the_scale_that_a_hard_swish_reads(
    largest: float, divides: bool, symmetric: bool
) -> None:
    """Unless that moved it by more than a thirty-second."""
    gated, plain = (calibrated_scale(largest, symmetric, gated) for gated in (True, False))
    assert gated == pytest.approx(plain, rel=1 / 32)
    assert (3 / gated == pytest.approx(round(3 / gated), rel=1e-6)) == divides
    assert 3 / plain != pytest.approx(round(3 / plain), rel=1e-6)


def calibrated_scale(largest: float, symmetric: bool, gated: bool) -> float:
    bounds = PORTABLE.act_range(8, signed=True, symmetric=symmetric)
    read = single_call("quantizer")
    if gated:
        (result,) = read.find_nodes(op="output")
        with read.inserting_before(result):
            swish = read.call_function(torch.ops.aten.hardswish.default, (result.args[0],))
        result.args = (swish,)
    quantizer = ActQuantizer(bounds, 8, signed=True)
    graph = fx.GraphModule({"quantizer": quantizer}, read)
    values = images(8)
    calibrate(graph, values / values.abs().max() * largest, symmetric, seed=0)
    return quantizer.scale.item()


def single_call(path: str) -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.call_module(path, (graph.placeholder("x"),)))
    return graph


def test_a_sample_is_as_large_as_asked_and_drawn_by_its_seed() -> None:
    student = placed(Residual())
    set_enabled(student, False)
    # Two batches, of 64 images and of 16.
    drawn = [sample_activations(student, images(80), seed, 500) for seed in (0, 0, 1)]
    sizes = [len(values) for values in drawn[0].values()]
    assert sizes[0] == max(sizes) == 500
    assert all(torch.equal(values, drawn[1][path]) for path, values in drawn[0].items())
    assert any(not torch.equal(values, drawn[2][path]) for path, values in drawn[0].items())


def test_sampling_large_tensors_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantizers(calibrated(Residual(), count=32))
    monkeypatch.setattr(observe, "SAMPLE_SIZE", 2000)
    sampled = quantizers(calibrated(Residual(), count=32))
    for name, quantizer in whole.items():
        assert sampled[name].scale.item() == pytest.approx(quantizer.scale.item(), rel=0.2)


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
def test_without_a_search_nothing_is_clipped(symmetry: ActSymmetry) -> None:
    made = images(40)
    student = placed(Residual(), Scheme(4, 4, 4, residual_bits=None, act_symmetry=symmetry))
    calibrate(student, made, symmetry == "symmetric", seed=0, search=False)
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            scale = module.scale.reshape(-1, *[1] * (module.weight.dim() - 1))
            q = (module.weight / scale).detach()
            assert float(q.max()) <= module.bounds.qmax + 1e-3
            assert float(q.min()) >= module.bounds.qmin - 1e-3
    set_enabled(student, False)
    with torch.no_grad():
        seen = sample_activations(student, made, seed=0)
    for path, values in seen.items():
        quantizer = student.get_submodule(path)
        assert isinstance(quantizer, ActQuantizer)
        step, zero_point = float(quantizer.scale.detach()), quantizer.zero_point
        # Half a step beyond the last integer is rounded, not clipped.
        assert step * (quantizer.bounds.qmin - zero_point - 0.501) <= float(values.min())
        assert float(values.max()) <= step * (quantizer.bounds.qmax - zero_point + 0.501)
