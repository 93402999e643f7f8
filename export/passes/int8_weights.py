"""Weights become int8 initializers -> ``DequantizeLinear``; biases stay float."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    add_initializer,
    float_attribute,
    require_lowered,
    stated_name,
    typed,
)
from lrq_deploy.export.passes._weight_lowering import (
    Array,
    WeightLoweringPass,
    bias_and_step,
    bias_integers,
)

__all__ = ["Int8WeightsPass"]

_WEIGHT_INPUT = 1


class Int8WeightsPass(WeightLoweringPass):
    """Put every weighted layer between int8 tensors.

    * Weights are int8 with zero points 0, one scale per output channel, whatever their width.
    * TensorRT's parser refuses int32 biases behind DequantizeLinear, so a bias stays float; it
      is checked to be a multiple of ``scale_x * scale_w``, which makes it the same number.
    * Where data was moved since it was quantized (flattened, pooled by maximum), it is stored
      again, for all its readers. That is exact, because the values lie on the grid already.

    Requires: activation quantizers are lowered.
    Ensures: no neutral weight is left; the data input of each weighted layer is dequantized.
    """

    def requires(self, model: ir.Model) -> None:
        """Check the precondition."""
        require_lowered(model)

    def stored(self, graph: ir.Graph, node: ir.Node, weight: Array) -> tuple[ir.Value | None, int]:
        """The int8 initializer as it is."""
        return node.inputs[0], 0

    def adapt(self, graph: ir.Graph, node: ir.Node, layer: ir.Node, index: int) -> None:
        """The bias is checked, the data input comes from stored integers."""
        name, found = stated_name(node), bias_and_step(node, layer)
        if found is not None:
            bias_integers(name, *found)
        if index == _WEIGHT_INPUT:
            _restore_input(graph, node, layer, name)


def _restore_input(graph: ir.Graph, weight: ir.Node, consumer: ir.Node, name: str) -> None:
    x = consumer.inputs[0]
    producer = None if x is None else x.producer()
    if x is None or producer is None or producer.op_type == "DequantizeLinear":
        return
    scale = np.asarray(float_attribute(weight, "input_scale"), np.float32)
    parameters = [
        add_initializer(graph, f"{name}.input_scale", scale),
        add_initializer(graph, f"{name}.input_zero_point", np.asarray(0, np.int8)),
    ]
    quantize = ir.node("QuantizeLinear", [x, *parameters], name=f"{name}.input.Q")
    stored = typed(quantize.outputs[0], f"{name}.input.stored", x.shape, ir.DataType.INT8)
    dequantize = ir.node("DequantizeLinear", [stored, *parameters], name=f"{name}.input.DQ")
    real = typed(dequantize.outputs[0], f"{name}.input", x.shape)
    # All readers take the stored values; otherwise the engine pools twice, in INT8 and in FP32.
    for reader, index in list(x.uses()):
        if reader is not quantize:
            reader.replace_input_with(index, real)
    graph.insert_after(producer, [quantize, dequantize])
