"""Activation scales without rounding ties."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from lrq_deploy.qparams import QParams
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.layers import ActQuantizer
from lrq_deploy.student.untie import MAX_NUDGE
from lrq_deploy.student.untie_activations import (
    WANTED,
    Rounded,
    clearance,
    exact_digits,
    rounded_values,
    untie_activations,
)

pytestmark = pytest.mark.unit

aten = torch.ops.aten

SIGNED, UNSIGNED = (-128, 127), (0, 127)
ranges = st.sampled_from([SIGNED, UNSIGNED, (0, 255), (-8, 7)])


def entry(scale: float, limits: tuple[int, int]) -> QParams:
    zero = torch.tensor(0, dtype=torch.int32)
    return QParams("activation", torch.tensor(scale), zero, *limits, 8)


def joined(operator: object, *names: str) -> fx.GraphModule:
    """``out = quantize(operator(a, b))`` on quantized inputs; only the graph matters."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    operands = [graph.call_module(name, (x,)) for name in names]
    result = graph.call_function(operator, tuple(operands))  # type: ignore[arg-type]
    graph.output(graph.call_module("out", (result,)))
    parts = {name: torch.nn.Identity() for name in (*names, "out")}
    return fx.GraphModule(parts, graph)


def untied(operator: object, entries: dict[str, QParams]) -> dict[str, QParams]:
    moved = dict(entries)
    untie_activations(joined(operator, *[name for name in entries if name != "out"]), moved)
    return moved


def clear_of_ties(operator: object, entries: dict[str, QParams], out: QParams) -> bool:
    """Whether some scale within reach was; 2 and 1.00001 times another have none for all sums."""
    graph = joined(operator, *[name for name in entries if name != "out"])
    call = next(node for node in graph.graph.nodes if node.target == "out")
    values = rounded_values(call, entries)
    assert values is not None
    return float(clearance(values, out.scale[None], out)) >= 1


def all_integers(limits: tuple[int, int]) -> Tensor:
    return torch.arange(limits[0], limits[1] + 1)


def rounded(steps: Tensor, output: QParams) -> Tensor:
    return torch.round(steps.double()).clamp(output.qmin, output.qmax)


def sums_in_float32(a: Tensor, b: Tensor, x: QParams, y: QParams, out: QParams) -> list[Tensor]:
    """Steps of ``a + b`` as torch, an engine and a kernel on stored integers compute them."""
    real = a * x.scale + b * y.scale
    ratios = x.scale / out.scale, y.scale / out.scale
    fixed = -out.qmin - (ratios[0] * -x.qmin + ratios[1] * -y.qmin)
    folded = (fixed + (a - x.qmin) * ratios[0]) + (b - y.qmin) * ratios[1]
    return [real / out.scale, real * (1 / out.scale), folded + out.qmin]


@settings(max_examples=12)
@given(ranges, ranges, ranges, st.floats(0.2, 2.0), st.floats(0.2, 2.0), st.floats(0.001, 9.0))
def test_every_order_of_float32_gives_the_same_sums(
    first: tuple[int, int],
    second: tuple[int, int],
    result: tuple[int, int],
    ratio_a: float,
    ratio_b: float,
    scale: float,
) -> None:
    entries = {
        "a": entry(scale * ratio_a, first),
        "b": entry(scale * ratio_b, second),
        "out": entry(scale, result),
    }
    out = untied(aten.add.Tensor, entries)["out"]
    assert float(out.scale) == pytest.approx(scale, rel=MAX_NUDGE * 1.01)
    assume(clear_of_ties(aten.add.Tensor, entries, out))
    a, b = all_integers(first)[:, None], all_integers(second)[None]
    x, y = entries["a"], entries["b"]
    exact = (a * x.scale.double() + b * y.scale.double()) / out.scale.double()
    for steps in sums_in_float32(a, b, x, y, out):
        assert torch.equal(rounded(steps, out), rounded(exact, out))


@settings(max_examples=12)
@given(ranges, ranges, st.floats(0.001, 9.0), st.floats(0.001, 0.02))
def test_every_order_of_float32_gives_the_same_products(
    first: tuple[int, int], result: tuple[int, int], scale: float, gate: float
) -> None:
    entries = {"a": entry(scale, first), "b": entry(gate, UNSIGNED), "out": entry(scale, result)}
    out = untied(aten.mul.Tensor, entries)["out"]
    assume(clear_of_ties(aten.mul.Tensor, entries, out))
    a, b = all_integers(first)[:, None], all_integers(UNSIGNED)[None]
    sa, sb = entries["a"].scale, entries["b"].scale
    exact = a * b * sa.double() * sb.double() / out.scale.double()
    kernel = (a * b).float() * (sa * sb / out.scale)
    for steps in ((a * sa) * (b * sb) / out.scale, kernel + -out.qmin + out.qmin):
        assert torch.equal(rounded(steps, out), rounded(exact, out))


def test_exact_ties_are_found_and_removed() -> None:
    # Every odd a + b is a tie.
    entries = {"a": entry(0.5, UNSIGNED), "b": entry(0.5, UNSIGNED), "out": entry(1.0, UNSIGNED)}
    graph = joined(aten.add.Tensor, "a", "b")
    call = next(node for node in graph.graph.nodes if node.target == "out")
    values = rounded_values(call, entries)
    assert values is not None
    assert len(values.real) == 128 * 128
    assert float(clearance(values, entries["out"].scale[None], entries["out"])) == 0
    scale = untied(aten.add.Tensor, entries)["out"].scale
    assert float(clearance(values, scale[None], entries["out"])) >= 1


def test_a_number_that_the_network_stores_is_known() -> None:
    graph = fx.Graph()
    read = graph.call_module("a", (graph.placeholder("x"),))
    gain, shift = (graph.get_attr(name) for name in ("gain", "shift"))
    product = graph.call_function(aten.mul.Tensor, (gain, read))
    call = graph.call_module("out", (graph.call_function(aten.add.Tensor, (product, shift)),))
    graph.output(call)
    parts = {"a": nn.Identity(), "out": nn.Identity()}
    values = {"gain": torch.tensor(0.5), "shift": torch.full((1, 1, 1, 1), -3.0)}
    student = fx.GraphModule({**parts, **values}, graph)
    entries = {"a": entry(1.0, UNSIGNED), "out": entry(1.0, SIGNED)}
    found = rounded_values(call, entries)
    assert found is not None
    assert torch.equal(found.real, torch.arange(128).double() / 2 - 3)
    # Sums err by what is added up, where it cancels too.
    assert float(found.error[6]) > 1e-7
    assert float(clearance(found, entries["out"].scale[None], entries["out"])) == 0
    moved = dict(entries)
    untie_activations(student, moved)
    assert float(clearance(found, moved["out"].scale[None], moved["out"])) >= 1


def test_a_scale_that_meets_no_tie_stays() -> None:
    entries = {"a": entry(1.0, (-8, 7)), "b": entry(1.0, (-8, 7)), "out": entry(1.0, SIGNED)}
    assert float(untied(aten.add.Tensor, entries)["out"].scale) == 1.0


@pytest.mark.parametrize("zero_point", [0, 5])
def test_a_curve_is_evaluated_at_every_integer(zero_point: int) -> None:
    read = replace(entry(0.05, SIGNED), zero_point=torch.tensor(zero_point))
    entries = {"a": read, "out": entry(0.031, SIGNED)}
    graph = joined(aten.silu.default, "a")
    call = next(node for node in graph.graph.nodes if node.target == "out")
    values = rounded_values(call, entries)
    assert values is not None
    reals = (torch.arange(-128, 128) - zero_point).double() * read.scale.double()
    assert torch.equal(values.real, torch.nn.functional.silu(reals))
    scale = untied(aten.silu.default, entries)["out"].scale
    assert float(clearance(values, scale[None], entries["out"])) >= 1


def test_a_shared_scale_is_settled_for_all_its_sums() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    a, b = graph.call_module("a", (x,)), graph.call_module("b", (x,))
    first = graph.call_module("out", (graph.call_function(aten.add.Tensor, (a, a)),))
    second = graph.call_module("out", (graph.call_function(aten.add.Tensor, (a, b)),))
    graph.output((first, second))
    parts = {name: torch.nn.Identity() for name in ("a", "b", "out")}
    entries = {"a": entry(0.5, UNSIGNED), "b": entry(1.5, UNSIGNED), "out": entry(1.0, UNSIGNED)}
    untie_activations(fx.GraphModule(parts, graph), entries)
    for call in (first, second):
        values = rounded_values(call, entries)
        assert values is not None
        assert float(clearance(values, entries["out"].scale[None], entries["out"])) >= 1


def test_the_result_of_a_layer_is_left_to_its_weights() -> None:
    graph = fx.Graph()
    x = graph.call_module("a", (graph.placeholder("x"),))
    call = graph.call_module("out", (graph.call_module("layer", (x,)),))
    graph.output(call)
    entries = {"a": entry(0.5, UNSIGNED), "out": entry(1.0, UNSIGNED)}
    assert rounded_values(call, entries) is None


@pytest.mark.parametrize("ratio", [8.0, 8.5, 127 / 15])
def test_a_narrow_copy_meets_no_tie(ratio: float) -> None:
    wide = ActQuantizer(IntegerRange(0, 127), 8, False)
    narrow = ActQuantizer(IntegerRange(0, 15), 4, False)
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("narrow", (graph.call_module("wide", (x,)),)))
    wide.set_range(0.037)
    narrow.set_range(0.037 * ratio)
    student = fx.GraphModule({"wide": wide, "narrow": narrow}, graph)
    _, table = freeze(student)
    steps = torch.arange(128).double() * (table["wide"].scale / table["narrow"].scale).double()
    assert float(((steps - 0.5).round() + 0.5 - steps).abs().min()) > 1e-6
    assert float(table["narrow"].scale) / (0.037 * ratio) == pytest.approx(1, abs=2.0**-13)


@pytest.mark.parametrize(
    ("low", "high", "limit"), [(0.0, 6.0, 6.0), (-6.0, 1.0, -6.0), (None, 6.0, 6.0)]
)
def test_the_limit_of_a_clip_is_no_tie(low: float | None, high: float, limit: float) -> None:
    graph = fx.Graph()
    layer = graph.call_module("layer", (graph.placeholder("x"),))
    clipped = graph.call_function(aten.clamp.default, (layer, low, high))
    graph.output(graph.call_module("out", (clipped,)))
    parts = {name: torch.nn.Identity() for name in ("layer", "out")}
    # A fifth of headroom above 6, in 255 steps.
    entries = {"out": entry(7.2 / 255, (0, 255) if limit > 0 else (-255, 0))}
    assert abs(6 / float(entries["out"].scale) - 212.5) < 1e-4
    untie_activations(fx.GraphModule(parts, graph), entries)
    steps = 6 / float(entries["out"].scale)
    assert 1e-4 < abs(steps - 212.5) < 212.5 * MAX_NUDGE * 1.01


@pytest.mark.parametrize("operator", ["avg_pool2d", "upsample"])
@pytest.mark.parametrize("largest", [7, 15, 127, 255])
def test_what_averages_tensors_of_its_own_scale_gets_one_of_few_digits(
    operator: str, largest: int
) -> None:
    """As of a concatenation of the average and the maximum: every other sum of four is a tie."""
    graph = fx.Graph()
    x = graph.call_module("out", (graph.placeholder("x"),))
    blends: dict[str, fx.Node] = {
        "avg_pool2d": graph.call_function(aten.avg_pool2d.default, (x, [2, 2])),
        "upsample": graph.call_function(aten.upsample_bilinear2d.vec, (x, None, False, [2.0, 2.0])),
    }
    graph.output((x, graph.call_module("out", (blends[operator],))))
    entries = {"out": entry(0.0123456789, (0, largest))}
    untie_activations(fx.GraphModule({"out": torch.nn.Identity()}, graph), entries)
    scale = entries["out"].scale
    assert float(scale) == pytest.approx(0.0123456789, rel=2.0 ** -exact_digits(entries["out"]))
    values = torch.randint(largest + 1, (1000, 64), generator=torch.Generator().manual_seed(0))
    for count in (4, 16, 64):
        real = (values[:, :count] * scale).cumsum(1)[:, -1]
        exact = values[:, :count].sum(1) / count
        assert torch.equal(real / count / scale, exact)
        assert torch.equal(real * (1 / count) / scale, exact)


def test_a_shared_scale_is_settled_once_all_that_it_reads_is() -> None:
    """The second call reads ``b``, whose own scale moves between the two calls."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    a, c = graph.call_module("a", (x,)), graph.call_module("c", (x,))
    first = graph.call_module("out", (graph.call_function(aten.add.Tensor, (a, a)),))
    b = graph.call_module("b", (graph.call_function(aten.add.Tensor, (a, a)),))
    second = graph.call_module("out", (graph.call_function(aten.add.Tensor, (b, c)),))
    graph.output((first, second))
    parts = {name: torch.nn.Identity() for name in ("a", "b", "c", "out")}
    student = fx.GraphModule(parts, graph)
    for scale in (1.7, 2.3, 3.7, 4.3):
        scales = {"a": 0.5, "b": 2.0, "c": 0.7103, "out": scale}
        entries = {name: entry(value, UNSIGNED) for name, value in scales.items()}
        untie_activations(student, entries)
        assert float(entries["b"].scale) != 2.0
        values = rounded_values(second, entries)
        assert values is not None
        assert float(clearance(values, entries["out"].scale[None], entries["out"])) > WANTED / 2


@pytest.mark.parametrize(
    ("operator", "first", "second", "result"),
    [
        (aten.add.Tensor, SIGNED, SIGNED, UNSIGNED),
        (aten.add.Tensor, SIGNED, UNSIGNED, UNSIGNED),
        (aten.add.Tensor, UNSIGNED, UNSIGNED, SIGNED),
        (aten.mul.Tensor, UNSIGNED, UNSIGNED, SIGNED),
    ],
)
@pytest.mark.parametrize("scale", [0.0371, 1.2345, 3.3])
def test_the_error_of_a_kernel_on_stored_integers_is_within_its_bound(
    operator: object,
    first: tuple[int, int],
    second: tuple[int, int],
    result: tuple[int, int],
    scale: float,
) -> None:
    """It adds and subtracts zero points, so even what is next to 0 carries their errors."""
    entries = {
        "a": entry(scale * 0.7103, first),
        "b": entry(scale * 1.1317, second),
        "out": entry(scale, result),
    }
    x, y, out = entries.values()
    call = next(n for n in joined(operator, "a", "b").graph.nodes if n.target == "out")
    bound = rounded_values(call, entries)
    assert bound is not None
    a, b = all_integers(first)[:, None], all_integers(second)[None]
    if operator is aten.add.Tensor:
        found = sums_in_float32(a, b, x, y, out)
    else:
        found = [(a * b).float() * (x.scale * y.scale / out.scale) + -out.qmin + out.qmin]
    for steps in found:
        error = (steps.double() * out.scale.double()).flatten() - bound.real
        assert bool((error.abs() <= bound.error).all())


@pytest.mark.parametrize("limits", [UNSIGNED, SIGNED, (-2, 13)])
@pytest.mark.parametrize("zero_point", [0, 5])
@pytest.mark.parametrize("others", [[], [3.25]])
def test_only_ties_within_the_range_count(
    limits: tuple[int, int], zero_point: int, others: list[float]
) -> None:
    out = replace(entry(0.125, limits), zero_point=torch.tensor(zero_point))
    low, high = (limit - zero_point for limit in limits)
    for steps in (low - 0.5, low + 0.5, -0.5, 0.5, high - 0.5, high + 0.5):
        real = torch.tensor([steps, *others], dtype=torch.float64) * 0.125
        met = clearance(Rounded(real, 2.0**-24 * real.abs()), out.scale[None], out)
        assert (float(met) == 0) == (low < steps < high)
