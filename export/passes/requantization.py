"""Integers that are requantized become a sum with 0."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    made_by,
    require_lowered,
    typed,
)

__all__ = ["RequantizationPass"]


class RequantizationPass(ir.passes.InPlacePass):
    """A quantizer that reads dequantized integers reads their sum with a stored 0 instead.

    ONNX Runtime has no requantization and would turn the integers into floats and back, as slow
    as a convolution. Its integer sum is vectorized, and with one scalar operand it is a
    requantization: three times as fast as a table of 256 entries (docs/experiments/latency.md).

    Requires: activation quantizers are lowered, and movement runs on integers.
    Ensures: the same integers, where the scale of the result has no ties with those it rounds
    (``lrq_deploy.student.untie_activations``).
    """

    def requires(self, model: ir.Model) -> None:
        """Check the precondition."""
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the sums."""
        modified = False
        for node in list(model.graph):
            source = _source(node)
            if source is not None:
                _add_nothing(model.graph, node, source)
                modified = True
        return ir.passes.PassResult(model, modified)


def _source(node: ir.Node) -> ir.Node | None:
    """The dequantization of computed integers that a quantizer reads."""
    value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
    source = made_by(value, "DequantizeLinear")
    return source if source is not None and constant(source.inputs[0]) is None else None


def _add_nothing(graph: ir.Graph, quantizer: ir.Node, source: ir.Node) -> None:
    real, scale, name = source.outputs[0], source.inputs[1], f"{quantizer.name}.sum"
    # Of the tensor's rank: ONNX Runtime would reshape a scalar, and each run back for its others.
    ones = [1] * len(real.shape or ())
    stored = add_initializer(graph, f"nothing.stored.{len(ones)}", np.zeros(ones, np.uint8))
    zero = add_initializer(graph, "nothing.zero_point", np.asarray(0, np.uint8))
    nothing = ir.node("DequantizeLinear", [stored, scale, zero], name=f"{name}.nothing.DQ")
    total = ir.node("Add", [real, nothing.outputs[0]], name=name)
    typed(nothing.outputs[0], f"{name}.nothing", ir.Shape(ones))
    typed(total.outputs[0], name, real.shape)
    graph.insert_before(quantizer, [nothing, total])
    quantizer.replace_input_with(0, total.outputs[0])
