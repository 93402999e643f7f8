"""Weights become integer initializers -> ``DequantizeLinear``, biases int32."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    add_initializer,
    int_attribute,
    stated_name,
    typed,
)
from lrq_deploy.export.passes._weight_lowering import (
    BIAS_INPUT,
    Array,
    WeightLoweringPass,
    bias_and_step,
    bias_integers,
)
from lrq_deploy.export.passes.saturation import pair_sums_fit

__all__ = ["IntegerWeightsPass"]

_PACKED = {
    2: (ml_dtypes.int2, ir.DataType.INT2),
    4: (ml_dtypes.int4, ir.DataType.INT4),
}
_INT2_OPSET, _INT2_IR_VERSION = 25, 13
"""The first with tensors of two bits."""


class IntegerWeightsPass(WeightLoweringPass):
    """Store each weight in the type whose kernel is exact on every CPU.

    * int8 with zero points 0 where 16-bit pair sums cannot saturate (see ``saturation``),
    * else uint8 with zero points 128, whose kernel widens before it multiplies,
    * on disk as int2 or int4 with a ``Cast`` that the runtime folds at load, where values fit.

    Args:
        packed: the widths of these that the runtime unpacks, the narrowest first.

    Ensures: no neutral weight is left; every bias of a lowered layer is int32.
    """

    def __init__(self, packed: tuple[int, ...]) -> None:
        super().__init__()
        self._packed = packed

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every weight, and state the version of ONNX that what is stored needs."""
        result = super().call(model)
        if any(x.dtype == ir.DataType.INT2 for x in model.graph.initializers.values()):
            model.opset_imports[""], model.ir_version = _INT2_OPSET, _INT2_IR_VERSION
        return result

    def stored(self, graph: ir.Graph, node: ir.Node, weight: Array) -> tuple[ir.Value | None, int]:
        """The integers in the narrowest exact type."""
        name, axis = stated_name(node), int_attribute(node, "axis")
        carrier_max = int_attribute(node, "input_qmax") - int_attribute(node, "input_qmin")
        if not pair_sums_fit(weight, axis, carrier_max):
            shifted = (weight.astype(np.int16) + 128).astype(np.uint8)
            return add_initializer(graph, f"{name}.weight_u8", shifted), 128
        for bits in self._packed:
            beyond = 2 ** (bits - 1)
            if weight.min() < -beyond or weight.max() >= beyond:
                continue
            kind, stated = _PACKED[bits]
            packed = add_initializer(graph, f"{name}.weight_int{bits}", weight.astype(kind), stated)
            cast = ir.node("Cast", [packed], {"to": int(ir.DataType.INT8)}, name=f"{name}.unpack")
            graph.insert_before(node, cast)
            shape = ir.Shape(weight.shape)
            return typed(cast.outputs[0], f"{name}.weight_int8", shape, ir.DataType.INT8), 0
        return node.inputs[0], 0

    def adapt(self, graph: ir.Graph, node: ir.Node, layer: ir.Node, index: int) -> None:
        """The bias becomes int32 behind a dequantization of its own."""
        found = bias_and_step(node, layer)
        if found is None:
            return
        name, (bias, step) = stated_name(node), found
        integers = bias_integers(name, bias, step)
        size = integers.size
        inputs = [
            add_initializer(graph, f"{name}.bias_int32", integers),
            add_initializer(graph, f"{name}.bias_scale", step),
            # Not left out: ONNX Runtime's converter to its own format cannot state that.
            add_initializer(graph, f"bias_zero_point_{size}", np.zeros(size, np.int32)),
        ]
        dequantize = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.bias.DQ")
        real = typed(dequantize.outputs[0], f"{name}.bias_real", ir.Shape(integers.shape))
        graph.insert_before(layer, dequantize)
        layer.replace_input_with(BIAS_INPUT, real)
