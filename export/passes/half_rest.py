"""What an engine computes in float becomes FP16, where that cannot move a rounding of a sum."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import add_initializer, constant, typed

__all__ = ["HalfRestPass"]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CURVES = frozenset(
    {
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Tanh",
    }
)
_SINGLE = ".single"


class HalfRestPass(ir.passes.InPlacePass):
    """Layers with float weights and curved activations run between casts to and from FP16.

    Scales, additions, products and poolings stay in FP32: half precision has 11 bits, so a sum
    of two integers of 8 bits would be rounded before its quantizer rounds it.

    Requires: the dialect of TensorRT.
    Ensures: inputs and outputs of the graph keep their types.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert every such operator, in execution order."""
        nodes = [node for node in model.graph if _is_float_layer(node) or node.op_type in _CURVES]
        for node in nodes:
            _convert(model.graph, node)
        ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, bool(nodes))


def _is_float_layer(node: ir.Node) -> bool:
    if node.op_type not in _LAYERS:
        return False
    return constant(node.inputs[1]) is not None or _unpacks_int4(node.inputs[1])


def _unpacks_int4(weight: ir.Value | None) -> bool:
    producer = None if weight is None else weight.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.inputs[0] is None:
        return False
    return producer.inputs[0].dtype == ir.DataType.INT4


def _convert(graph: ir.Graph, node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, _half(graph, node, index, value))
    output = node.outputs[0]
    name = str(output.name)
    single = ir.Value(name=name, shape=output.shape, type=ir.TensorType(ir.DataType.FLOAT))
    output.replace_all_uses_with(single, replace_graph_outputs=True)
    output.name, output.type = f"{name}.half", ir.TensorType(ir.DataType.FLOAT16)
    attributes = {"to": int(ir.DataType.FLOAT)}
    back = ir.node("Cast", [output], attributes, outputs=[single], name=f"{name}{_SINGLE}")
    graph.insert_after(node, back)


def _half(graph: ir.Graph, reader: ir.Node, index: int, value: ir.Value) -> ir.Value:
    """The FP16 form of what ``reader`` reads as its input ``index``."""
    array = constant(value)
    if array is not None:
        return add_initializer(graph, f"{value.name}.half", array.astype(np.float16))
    producer = value.producer()
    if producer is not None and str(producer.name).endswith(_SINGLE) and producer.inputs[0]:
        return producer.inputs[0]
    name = f"{reader.name or reader.outputs[0].name}.input{index}.half"
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)}, name=name)
    graph.insert_before(reader, cast)
    return typed(cast.outputs[0], name, value.shape, ir.DataType.FLOAT16)
