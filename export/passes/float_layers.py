"""Layers that stay in float are kept from being quantized by ONNX Runtime."""

import onnx_ir as ir

from lrq_deploy.export.passes._matching import constant, insert_identity, is_quantizer

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
                insert_identity(model.graph, node, "float")
                modified = True
        return ir.passes.PassResult(model, modified)


def _has_float_weights(node: ir.Node) -> bool:
    return node.op_type in _LAYERS and constant(node.inputs[1]) is not None
