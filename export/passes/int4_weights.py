"""Weight-only layers become INT4 initializers -> ``DequantizeLinear`` in blocks."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    add_initializer,
    int_attribute,
    is_int4_weight,
    stated_name,
    weight_arrays,
)
from lrq_deploy.export.passes._weight_lowering import dequantize_weight

__all__ = ["Int4WeightsPass"]


class Int4WeightsPass(ir.passes.InPlacePass):
    """Weights of layers whose input stays float, one scale per block of a row.

    TensorRT unpacks them inside of its matrix product; ONNX Runtime does so at every run.

    Ensures: no neutral INT4 weight is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every INT4 weight."""
        weights = [node for node in model.graph if is_int4_weight(node)]
        for node in weights:
            _lower(model.graph, node)
        return ir.passes.PassResult(model, bool(weights))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_int4_weight(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral INT4 weight is left")


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    name = stated_name(node)
    integers, scales = weight_arrays(node)
    nibbles = integers.astype(ml_dtypes.int4)
    zeros = np.zeros(scales.shape, ml_dtypes.int4)
    inputs = [
        add_initializer(graph, f"{name}.weight_int4", nibbles, ir.DataType.INT4),
        node.inputs[1],
        add_initializer(graph, f"{name}.weight_zero_point", zeros, ir.DataType.INT4),
    ]
    attributes = {"axis": 1, "block_size": int_attribute(node, "block")}
    dequantize_weight(graph, node, inputs, attributes)
