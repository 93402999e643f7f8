"""Weights in the narrowest type whose kernel is exact, with the numbers that they had."""

import numpy as np
import onnx_ir as ir
import pytest

from lrq_deploy.export.neutral import DOMAIN, WEIGHT
from lrq_deploy.export.passes._matching import add_initializer
from lrq_deploy.export.passes.integer_weights import IntegerWeightsPass

pytestmark = pytest.mark.unit


def lowered(
    weights: list[int], packed: tuple[int, ...] = (2, 4), input_qmax: int = 127
) -> ir.Model:
    """A convolution of two output channels with these weights, lowered."""
    shape = ir.Shape([1, len(weights) // 2, 4, 4])
    x = ir.Value(name="input", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21, DOMAIN: 1}, name="g")
    integers = np.asarray(weights, np.int8).reshape(2, -1, 1, 1)
    attributes: dict[str, str | int | float] = {
        "name": "layer",
        "axis": 0,
        "input_scale": 0.5,
        "input_zero_point": 0,
        "input_qmin": 0,
        "input_qmax": input_qmax,
    }
    inputs = [
        add_initializer(graph, "layer.weight_int8", integers),
        add_initializer(graph, "layer.scale", np.asarray([0.25, 2.0], np.float32)),
    ]
    weight = ir.node(WEIGHT, inputs, attributes, domain=DOMAIN)
    weight.outputs[0].shape = ir.Shape(integers.shape)
    layer = ir.node("Conv", [x, weight.outputs[0]])
    graph.extend([weight, layer])
    graph.outputs.append(layer.outputs[0])
    model = ir.Model(graph, ir_version=10)
    IntegerWeightsPass(packed)(model)
    return model


def stored(model: ir.Model) -> tuple[ir.DataType, list[int]]:
    """Type of the stored weights, and the integers that they stand for."""
    (dequantize,) = (n for n in model.graph if n.op_type == "DequantizeLinear")
    source, zero_points = dequantize.inputs[0], dequantize.inputs[2]
    while source is not None and (producer := source.producer()) is not None:
        assert producer.op_type == "Cast"
        source = producer.inputs[0]
    assert source is not None
    assert zero_points is not None
    assert source.const_value is not None
    assert zero_points.const_value is not None
    numbers = source.const_value.numpy().astype(np.int64)
    (zero_point,) = set(zero_points.const_value.numpy().tolist())
    return source.const_value.dtype, (numbers - zero_point).flatten().tolist()


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        ([-2, 1, 0, 1], ir.DataType.INT2),
        ([-2, 2, 0, 1], ir.DataType.INT4),
        ([-3, 1, 0, 1], ir.DataType.INT4),
        ([-8, 7, 0, 1], ir.DataType.INT4),
        ([-8, 8, 0, 1], ir.DataType.INT8),
        ([0, 0, 0, 8], ir.DataType.INT8),
        ([-9, 7, 0, 1], ir.DataType.INT8),
        ([-100, 15, 127, 1], ir.DataType.INT8),
    ],
)
def test_weights_are_packed_in_the_fewest_bits_that_hold_all_of_them(
    weights: list[int], kind: ir.DataType
) -> None:
    assert stored(lowered(weights)) == (kind, weights)
    nibbles = ir.DataType.INT4 if kind == ir.DataType.INT2 else kind
    assert stored(lowered(weights, packed=(4,))) == (nibbles, weights)
    assert stored(lowered(weights, packed=())) == (ir.DataType.INT8, weights)


def test_only_two_bits_need_a_later_version_of_onnx() -> None:
    newer, usual = lowered([-2, 1, 0, 1]), lowered([-2, 2, 0, 1])
    assert (newer.opset_imports[""], newer.ir_version) == (25, 13)
    assert (usual.opset_imports[""], usual.ir_version) == (21, 10)


@pytest.mark.parametrize("packed", [(), (2, 4)])
def test_weights_whose_pair_sums_would_saturate_are_stored_without_a_sign(
    packed: tuple[int, ...],
) -> None:
    weights = [127, 127, -128, -128]
    assert stored(lowered(weights, packed, input_qmax=255)) == (ir.DataType.UINT8, weights)
    assert stored(lowered(weights, packed, input_qmax=127)) == (ir.DataType.INT8, weights)
    narrow = [7, 7, -8, -8]
    assert stored(lowered(narrow, packed, input_qmax=255))[0] == (
        ir.DataType.INT4 if packed else ir.DataType.INT8
    )
