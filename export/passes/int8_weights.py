"""Weights become int8 initializers -> ``DequantizeLinear``; biases stay float."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.errors import ExportError
from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    float_attribute,
    int_attribute,
    is_quantizer,
    is_weight,
    string_attribute,
)
from lrq_deploy.export.passes.integer_weights import bias_integers

__all__ = ["Int8WeightsPass"]

_WITH_BIAS = ("Conv", "Gemm", "ConvTranspose")


class Int8WeightsPass(ir.passes.InPlacePass):
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
        if any(is_quantizer(node) for node in model.graph):
            raise ir.passes.PreconditionError("quantizers must be lowered first")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every weight."""
        weights = [node for node in model.graph if is_weight(node)]
        for node in weights:
            _lower(model.graph, node)
        return ir.passes.PassResult(model, bool(weights))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_weight(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral weight is left")


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    name, axis = string_attribute(node, "name"), int_attribute(node, "axis")
    source, scale = node.inputs[0], node.inputs[1]
    weight, scales = constant(source), constant(scale)
    if weight is None or scales is None:
        raise ExportError(
            "weights must be constants", name, "this is a fault of lrq-deploy; please report it"
        )
    zeros = add_initializer(graph, f"{name}.weight_zero_point", np.zeros(scales.size, np.int8))
    real = ir.Value(
        name=f"{name}.weight",
        shape=node.outputs[0].shape,
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    dequantize = ir.node(
        "DequantizeLinear",
        [source, scale, zeros],
        {"axis": axis},
        outputs=[real],
        name=f"{name}.weight.DQ",
    )
    graph.insert_before(node, dequantize)
    for consumer, index in list(node.outputs[0].uses()):
        consumer.name = name
        _check_bias(node, consumer, name)
        if index == 1:
            _restore_input(graph, node, consumer, name)
    node.outputs[0].replace_all_uses_with(real)
    graph.remove(node, safe=True)


def _check_bias(weight: ir.Node, consumer: ir.Node, name: str) -> None:
    if consumer.op_type not in _WITH_BIAS or len(consumer.inputs) < 3:
        return
    bias, scales = constant(consumer.inputs[2]), constant(weight.inputs[1])
    if bias is None or scales is None:
        return
    input_scale = np.float32(float_attribute(weight, "input_scale"))
    step = input_scale * np.tile(scales.astype(np.float32), bias.size // scales.size)
    bias_integers(name, bias.astype(np.float32), step)


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
    stored = quantize.outputs[0]
    stored.name, stored.shape = f"{name}.input.stored", x.shape
    stored.type = ir.TensorType(ir.DataType.INT8)
    dequantize = ir.node("DequantizeLinear", [stored, *parameters], name=f"{name}.input.DQ")
    real = dequantize.outputs[0]
    real.name, real.shape, real.type = f"{name}.input", x.shape, ir.TensorType(ir.DataType.FLOAT)
    # All readers take the stored values; otherwise the engine pools twice, in INT8 and in FP32.
    for reader, index in list(x.uses()):
        if reader is not quantize:
            reader.replace_input_with(index, real)
    graph.insert_after(producer, [quantize, dequantize])
