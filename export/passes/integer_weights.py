"""Weights become integer initializers -> ``DequantizeLinear``, biases int32."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lrq_deploy.errors import ExportError
from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    float_attribute,
    int_attribute,
    is_weight,
    string_attribute,
)
from lrq_deploy.export.saturation import pair_sums_fit

__all__ = ["IntegerWeightsPass"]

_INT32_MAX = 2**31 - 1
_WITH_BIAS = ("Conv", "Gemm", "ConvTranspose")


class IntegerWeightsPass(ir.passes.InPlacePass):
    """Store each weight in the type whose kernel is exact on every CPU.

    * int8 with zero points 0 where 16-bit pair sums cannot saturate (see ``saturation``),
    * else uint8 with zero points 128, whose kernel widens before it multiplies,
    * on disk as int4 with a ``Cast`` that the runtime folds at load, where values fit.

    Args:
        packed: store weights of at most 4 bits as int4.

    Ensures: no neutral weight is left; every bias of a lowered layer is int32.
    """

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self._packed = packed

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every weight."""
        weights = [node for node in model.graph if is_weight(node)]
        for node in weights:
            _lower(model.graph, node, self._packed)
        return ir.passes.PassResult(model, bool(weights))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_weight(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral weight is left")


def _lower(graph: ir.Graph, node: ir.Node, packed: bool) -> None:
    name, axis = string_attribute(node, "name"), int_attribute(node, "axis")
    stored, zero_point = _stored_weight(graph, node, packed)
    scale = node.inputs[1]
    shape = node.outputs[0].shape
    zeros = np.full(_length(scale), zero_point, np.uint8 if zero_point else np.int8)
    zero_value = add_initializer(graph, f"{name}.weight_zero_point", zeros)
    real = ir.Value(name=f"{name}.weight", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    dequantize = ir.node(
        "DequantizeLinear",
        [stored, scale, zero_value],
        {"axis": axis},
        outputs=[real],
        name=f"{name}.weight.DQ",
    )
    graph.insert_before(node, dequantize)
    for consumer, _ in list(node.outputs[0].uses()):
        consumer.name = name
        if consumer.op_type in _WITH_BIAS and len(consumer.inputs) > 2:
            _lower_bias(graph, node, consumer, name)
    node.outputs[0].replace_all_uses_with(real)
    graph.remove(node, safe=True)


def _length(value: ir.Value | None) -> int:
    array = constant(value)
    return 0 if array is None else array.size


def _stored_weight(graph: ir.Graph, node: ir.Node, packed: bool) -> tuple[ir.Value, int]:
    """The integer value that the dequantization reads, and its zero point."""
    name, axis = string_attribute(node, "name"), int_attribute(node, "axis")
    source = node.inputs[0]
    weight = constant(source)
    if weight is None or source is None:
        raise ExportError(
            "weights must be constants", name, "this is a fault of lrq-deploy; please report it"
        )
    carrier_max = int_attribute(node, "input_qmax") - int_attribute(node, "input_qmin")
    if not pair_sums_fit(weight, axis, carrier_max):
        shifted = (weight.astype(np.int16) + 128).astype(np.uint8)
        return add_initializer(graph, f"{name}.weight_u8", shifted), 128
    if packed and weight.min() >= -8 and weight.max() <= 7:
        nibbles = weight.astype(ml_dtypes.int4)
        stored = add_initializer(graph, f"{name}.weight_int4", nibbles, ir.DataType.INT4)
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.INT8)}, name=f"{name}.unpack")
        unpacked = cast.outputs[0]
        unpacked.name, unpacked.shape = f"{name}.weight_int8", source.shape
        unpacked.type = ir.TensorType(ir.DataType.INT8)
        graph.insert_before(node, cast)
        return unpacked, 0
    return source, 0


def _lower_bias(graph: ir.Graph, weight: ir.Node, consumer: ir.Node, name: str) -> None:
    bias = constant(consumer.inputs[2])
    scales = constant(weight.inputs[1])
    if bias is None or scales is None:
        return
    input_scale = np.float32(float_attribute(weight, "input_scale"))
    # A grouped transposed convolution shares the scales of its weight across the groups.
    step = input_scale * np.tile(scales.astype(np.float32), bias.size // scales.size)
    integers = bias_integers(name, bias.astype(np.float32), step)
    stored = add_initializer(graph, f"{name}.bias_int32", integers)
    step_value = add_initializer(graph, f"{name}.bias_scale", step)
    dequantize = ir.node(
        "DequantizeLinear", [stored, step_value], {"axis": 0}, name=f"{name}.bias.DQ"
    )
    real = dequantize.outputs[0]
    real.name, real.shape = f"{name}.bias_real", ir.Shape(integers.shape)
    real.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(consumer, dequantize)
    consumer.replace_input_with(2, real)


def bias_integers(
    name: str, bias: NDArray[np.float32], step: NDArray[np.float32]
) -> NDArray[np.int32]:
    """``bias / step`` as int32, both of shape ``[C]``.

    Raises:
        ExportError: a bias is off the grid or does not fit 32 bits.
    """
    exact = bias.astype(np.float64) / step.astype(np.float64)
    integers = np.rint(exact)
    # A float32 bias and a float32 step each carry half a unit in the last place.
    tolerance = 1e-3 + np.abs(integers) * 2.0**-22
    too_large = np.abs(integers) > _INT32_MAX + tolerance
    if np.any(np.abs(exact - integers) > tolerance) or np.any(too_large):
        worst = float(np.max(np.abs(exact - integers)))
        raise ExportError(
            "biases must be multiples of scale_x * scale_w within 32 bits",
            f"{name} up to {worst:.3g} steps off the grid, {np.max(np.abs(integers)):.3g} steps",
            "this is a fault of lrq-deploy; please report it with the network's name",
        )
    return np.clip(integers, -_INT32_MAX, _INT32_MAX).astype(np.int32)
