"""Layers that stay in float are kept from being quantized by ONNX Runtime."""

import onnx_ir as ir

from lrq_deploy.export.passes._matching import constant, is_quantizer

__all__ = ["FloatLayersPass"]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})


class FloatLayersPass(ir.passes.InPlacePass):
    """A ``LeakyRelu`` of slope 1 goes between a layer with float weights and its quantizers.

    That is the identity. Without it ONNX Runtime 1.32 rounds such weights to int8, per tensor, and
    runs the layer in integers, which is another network. It fuses the identity into the layer.

    Requires: clamps in front of quantizers are folded into them.
    Ensures: no quantizer reads a layer with float weights.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the identities."""
        modified = False
        for node in list(model.graph):
            producer = node.inputs[0].producer() if is_quantizer(node) and node.inputs[0] else None
            if producer is not None and _has_float_weights(producer):
                _insert_identity(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _has_float_weights(node: ir.Node) -> bool:
    return node.op_type in _LAYERS and constant(node.inputs[1]) is not None


def _insert_identity(graph: ir.Graph, quantizer: ir.Node) -> None:
    """Put a ``LeakyRelu`` of slope 1 in front of a quantizer.

    ONNX Runtime removes ``Identity``, and has an integer kernel for this one.
    """
    value, name = quantizer.inputs[0], f"{quantizer.outputs[0].name}.float"
    same = ir.node("LeakyRelu", [value], {"alpha": 1.0}, name=name, num_outputs=1)
    result = same.outputs[0]
    result.name = name
    if value is not None:
        result.shape, result.type = value.shape, value.type
    graph.insert_before(quantizer, same)
    quantizer.replace_input_with(0, result)
