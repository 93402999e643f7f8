"""Passes on graphs of a few nodes, and the bounds they rest on."""

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.neutral import DOMAIN, QUANTIZE
from lrq_deploy.export.passes._matching import add_initializer, int_attribute
from lrq_deploy.export.passes._weight_lowering import bias_integers
from lrq_deploy.export.passes.fold_activation import FoldActivationPass
from lrq_deploy.export.passes.global_pool import GlobalPoolPass
from lrq_deploy.export.passes.integer_movement import IntegerMovementPass
from lrq_deploy.export.passes.requantization import RequantizationPass
from lrq_deploy.export.passes.saturation import pair_sums_fit
from lrq_deploy.export.passes.uint8_activations import Uint8ActivationsPass
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.runtime.version import OLDEST
from lrq_deploy.export.targets import TargetRegistry, targets

pytestmark = pytest.mark.unit


def graph_of(*steps: tuple[str, list[float]]) -> ir.Model:
    """Chain of operators on ``input`` [2, 3, 4, 4], each with scalar constants behind it."""
    x = ir.Value(name="input", shape=ir.Shape([2, 3, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, DOMAIN: 1}, name="g")
    for index, (op_type, constants) in enumerate(steps):
        extra = [
            add_initializer(graph, f"c{index}_{i}", np.asarray(c, np.float32))
            for i, c in enumerate(constants)
        ]
        node = ir.node(op_type, [x, *extra])
        x = append(graph, node)
    graph.outputs.append(x)
    return ir.Model(graph, ir_version=10)


def append(graph: ir.Graph, node: ir.Node) -> ir.Value:
    graph.append(node)
    output = node.outputs[0]
    output.name = f"v{len(graph)}"
    output.shape, output.type = ir.Shape([2, 3, 4, 4]), ir.TensorType(ir.DataType.FLOAT)
    return output


def quantizer(model: ir.Model, scale: float, zero_point: int, qmin: int, qmax: int) -> ir.Node:
    x = model.graph.outputs[0]
    integers = {"zero_point": zero_point, "qmin": qmin, "qmax": qmax, "low": qmin, "high": qmax}
    attributes: dict[str, str | int | float] = {"name": "quantizers.q", "scale": scale, **integers}
    node = ir.node(QUANTIZE, [x], attributes, domain=DOMAIN)
    model.graph.outputs[0] = append(model.graph, node)
    return node


@given(
    st.lists(st.tuples(st.floats(-4, 4), st.floats(0, 4)), min_size=1, max_size=3),
    st.integers(0, 15),
    st.floats(0.05, 0.5),
)
def test_folding_clamps_is_exact(
    clamps: list[tuple[float, float]], zero_point: int, scale: float
) -> None:
    scale = float(np.float32(scale))
    model = graph_of(*(("Clip", [low, low + span]) for low, span in clamps))
    node = quantizer(model, scale, zero_point, 0, 15)
    FoldActivationPass()(model)
    assert [n.op_type for n in model.graph] == [QUANTIZE]
    x = np.linspace(-6, 6, 997, dtype=np.float32)
    clamped = x
    for low, span in clamps:
        clamped = np.minimum(np.maximum(clamped, np.float32(low)), np.float32(low + span))
    expected = np.clip(np.rint(clamped / np.float32(scale)) + zero_point, 0, 15)
    ours = np.rint(x / np.float32(scale)) + zero_point
    ours = np.clip(ours, int_attribute(node, "low"), int_attribute(node, "high"))
    assert np.array_equal(ours, expected)


def test_relu_folds_to_the_zero_point() -> None:
    model = graph_of(("Relu", []))
    node = quantizer(model, 0.1, 0, -8, 7)
    FoldActivationPass()(model)
    assert (int_attribute(node, "low"), int_attribute(node, "high")) == (0, 7)


def test_other_activations_stay() -> None:
    model = graph_of(("Sigmoid", []))
    quantizer(model, 0.1, 0, 0, 15)
    assert not FoldActivationPass()(model).modified


@pytest.mark.parametrize(("qmin", "qmax", "clips"), [(-8, 7, 1), (-128, 127, 0), (0, 255, 0)])
def test_the_clip_is_there_only_where_it_acts(qmin: int, qmax: int, clips: int) -> None:
    model = graph_of()
    quantizer(model, 0.1, 0, qmin, qmax)
    Uint8ActivationsPass()(model)
    kinds = [n.op_type for n in model.graph]
    assert kinds.count("Clip") == clips
    zero = model.graph.initializers["quantizers.q.zero_point"].const_value
    assert zero is not None
    assert (zero.dtype, int(zero.numpy())) == (ir.DataType.UINT8, -qmin)


@pytest.mark.parametrize("qmax", [15, 127, 255])
def test_a_softmax_is_rounded_as_written(tmp_path: Path, qmax: int) -> None:
    model = graph_of()
    image = quantizer(model, 0.03, 0, -128, 127)
    image.attributes["name"] = ir.AttrString("name", "quantizers.input")
    model.graph.outputs[0] = append(
        model.graph, ir.node("Softmax", [model.graph.outputs[0]], {"axis": -1})
    )
    scale = np.float32(0.6 / qmax)
    quantizer(model, float(scale), 0, 0, qmax)
    x = np.random.default_rng(0).normal(size=(400, 3, 4, 4)).astype(np.float32)
    for value in [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]:
        value.shape = ir.Shape(x.shape)
    Uint8ActivationsPass()(model)
    stored = np.clip(np.rint(x / np.float32(0.03)), -128, 127) * np.float32(0.03)
    powers = np.exp(stored.astype(np.float64))
    expected = np.clip(np.rint(powers / powers.sum(-1, keepdims=True) / scale), 0, qmax) * scale
    data = ir.to_proto(model).SerializeToString()
    for level in ("off", "all"):
        session = open_session(data, level=level, optimized=tmp_path / f"{level}.onnx")
        found = session.runtime.run(None, {"input": x})[0]
        # float32 sums meet a rounding tie now and then; the fused kernel missed many.
        assert np.mean(found != expected.astype(np.float32)) < 1e-4
    kinds = {node.op_type for node in onnx.load(tmp_path / "all.onnx").graph.node}
    assert "QLinearSoftmax" not in kinds


def test_movement_before_lowering_is_a_fault() -> None:
    model = graph_of()
    quantizer(model, 0.1, 0, 0, 15)
    with pytest.raises(ir.passes.PreconditionError):
        IntegerMovementPass()(model)


def test_requantization_is_a_sum_that_is_one_kernel(tmp_path: Path) -> None:
    model = graph_of()
    model.graph.inputs[0].shape = ir.Shape([1, 256])
    for scale, qmin, qmax in ((0.1, -128, 127), (0.3337, -8, 7)):
        node = quantizer(model, scale, 0, qmin, qmax)
        node.attributes["name"] = ir.AttrString("name", f"quantizers.{scale}")
        node.outputs[0].shape = ir.Shape([1, 256])
    Uint8ActivationsPass()(model)
    assert RequantizationPass()(model).modified
    x = np.arange(-128, 128, dtype=np.float32)[None] * np.float32(0.1)
    expected = np.clip(np.rint(x / np.float32(0.3337)), -8, 7) * np.float32(0.3337)
    # A scalar would be reshaped to the tensor's rank, and back in each run where others share it.
    (stored,) = [v for name, v in model.graph.initializers.items() if name.startswith("nothing.st")]
    assert stored.shape == ir.Shape([1, 1])
    data = ir.to_proto(model).SerializeToString()
    for level in ("off", "all"):
        session = open_session(data, level=level, optimized=tmp_path / f"{level}.onnx")
        assert np.array_equal(session.runtime.run(None, {"input": x})[0], expected)
    kinds = [node.op_type for node in onnx.load(tmp_path / "all.onnx").graph.node]
    assert kinds == ["QuantizeLinear", "QLinearAdd", "Clip", "DequantizeLinear"]


def test_requantization_before_lowering_is_a_fault() -> None:
    model = graph_of()
    quantizer(model, 0.1, 0, 0, 15)
    with pytest.raises(ir.passes.PreconditionError):
        RequantizationPass()(model)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_spatial_mean_becomes_a_pooling(keepdims: int, axes: list[int]) -> None:
    model = graph_of()
    constant = add_initializer(model.graph, "axes", np.asarray(axes, np.int64))
    inputs = [model.graph.inputs[0], constant]
    append(model.graph, ir.node("ReduceMean", inputs, {"keepdims": keepdims}))
    model.graph.outputs[0] = model.graph.node(0).outputs[0]
    GlobalPoolPass()(model)
    expected = ["GlobalAveragePool"] + ["Flatten"] * (1 - keepdims)
    assert [n.op_type for n in model.graph] == expected
    assert model.graph.outputs[0].producer() is model.graph.node(-1)


def test_the_quantizer_of_a_pooling_comes_before_its_flatten() -> None:
    model = graph_of()
    axes = add_initializer(model.graph, "axes", np.asarray([2, 3], np.int64))
    mean = ir.node("ReduceMean", [model.graph.inputs[0], axes], {"keepdims": 0})
    model.graph.outputs[0] = append(model.graph, mean)
    quantizer(model, 0.1, 0, 0, 127)
    append(model.graph, ir.node("Relu", [model.graph.outputs[0]]))
    model.graph.outputs.append(model.graph.node(-1).outputs[0])
    for value in (model.graph.node(0).outputs[0], *model.graph.outputs):
        value.shape = ir.Shape([2, 3])
    names = [value.name for value in model.graph.outputs]
    GlobalPoolPass()(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds == ["GlobalAveragePool", QUANTIZE, "Flatten", "Relu"]
    assert [value.name for value in model.graph.outputs] == names
    assert [list(node.outputs[0].shape or ()) for node in model.graph] == [
        [2, 3, 1, 1],
        [2, 3, 1, 1],
        [2, 3],
        [2, 3],
    ]
    Uint8ActivationsPass()(model)
    IntegerMovementPass()(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds[:4] == ["GlobalAveragePool", "QuantizeLinear", "Clip", "Flatten"]


def test_a_mean_over_channels_stays() -> None:
    model = graph_of()
    constant = add_initializer(model.graph, "axes", np.asarray([1], np.int64))
    append(model.graph, ir.node("ReduceMean", [model.graph.inputs[0], constant]))
    assert not GlobalPoolPass()(model).modified


@given(
    st.lists(st.integers(-128, 127), min_size=2, max_size=6),
    st.sampled_from([1, 15, 127, 128, 255]),
)
def test_pair_sum_bound_is_the_brute_force_one(weights: list[int], carrier_max: int) -> None:
    worst = 0
    for pair in itertools.combinations(weights, 2):
        for corner in itertools.product((0, carrier_max), repeat=2):
            worst = max(worst, abs(sum(w * a for w, a in zip(pair, corner, strict=True))))
    fits = pair_sums_fit(np.asarray([weights], np.int8), 0, carrier_max)
    assert fits == (worst <= 2**15 - 1)


def test_seven_bit_activations_never_saturate() -> None:
    worst = np.full((1, 8), -127, np.int8)
    assert pair_sums_fit(worst, 0, 127)
    assert not pair_sums_fit(worst, 0, 255)
    assert pair_sums_fit(np.full((1, 8), 7, np.int8), 0, 255)


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=5))
def test_bias_integers_survive_float32(integers: list[int]) -> None:
    step = np.full(len(integers), 0.00137, np.float32)
    bias = (np.asarray(integers, np.float64) * step.astype(np.float64)).astype(np.float32)
    found = bias_integers("l", bias, step)
    again = (found.astype(np.float64) * step.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(again, bias, rtol=2**-23)


def test_bias_beyond_32_bits_is_refused() -> None:
    step = np.asarray([1e-9], np.float32)
    with pytest.raises(ExportError, match="32 bits"):
        bias_integers("l", np.asarray([5.0], np.float32), step)


def test_registry_refuses_collisions_and_names_what_it_has() -> None:
    with pytest.raises(OptionError, match="unique"):
        TargetRegistry([OnnxRuntimeTarget(), OnnxRuntimeTarget(OLDEST)])
    with pytest.raises(OptionError, match="Available names are: onnxruntime"):
        targets().get("tpu")
