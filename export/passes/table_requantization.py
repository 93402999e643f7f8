"""Integers that are requantized become a table lookup."""

import onnx_ir as ir

from lrq_deploy.export.passes._matching import insert_identity, is_quantizer

__all__ = ["TableRequantizationPass"]

_MOVEMENT = frozenset({"MaxPool", "Pad", "Slice", "Reshape", "Flatten", "Transpose", "Concat"})


class TableRequantizationPass(ir.passes.InPlacePass):
    """A quantizer that reads quantized values gets a ``LeakyRelu`` of slope 1 in front of it.

    That is the identity. ONNX Runtime has no requantization and would turn the integers into
    floats and back, as slow as a convolution; between integers it runs a ``LeakyRelu`` as a
    table of 256 entries, made with the same float32 arithmetic.

    Ensures: the same integers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the identities."""
        modified = False
        for node in list(model.graph):
            value = node.inputs[0] if is_quantizer(node) else None
            if value is None or not _is_quantized(value):
                continue
            insert_identity(model.graph, node, "table")
            modified = True
        return ir.passes.PassResult(model, modified)


def _is_quantized(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in _MOVEMENT and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return is_quantizer(producer)
