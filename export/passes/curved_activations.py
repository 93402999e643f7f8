"""SiLU and hard-swish between integers take the form that ONNX Runtime runs fastest."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    made_by,
    require_lowered,
    typed,
)
from lrq_deploy.graph.gates import HARD_SWISH_REACH

__all__ = ["CurvedActivationsPass"]

_CONTRIB = "com.microsoft"
_NEAR = 2.0**-22
"""Relative distance from an integer that float32 explains."""


class CurvedActivationsPass(ir.passes.InPlacePass):
    """One kernel for SiLU; for hard-swish two that stay in integers.

    ``x * sigmoid(x)`` becomes ``QuickGelu`` of slope 1, the name of that function among ONNX
    Runtime's own operators. As two operators they read the same dequantized tensor, which ONNX
    Runtime then makes twice, and are not fused any more.

    ``hardswish(x)`` of a stored ``q`` whose scale divides 3, ``3 = n * scale``, is the product of
    ``scale * (q - z)`` and ``scale / 6 * (clip(q, z - n, z + n) - (z - n))``: a ``Clip`` of
    integers with a zero point of its own, and a product that has an integer kernel.

    Requires: activation quantizers are lowered.
    Ensures: the same function; no ``Sigmoid`` that only gates its own input.
    """

    def requires(self, model: ir.Model) -> None:
        """Check the precondition."""
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every matching node."""
        graph, modified = model.graph, False
        for node in list(graph):
            if node.op_type == "HardSwish" and node.domain == "":
                modified |= _gate_in_integers(graph, node)
            elif (x := _gated_by_itself(node)) is not None:
                _replace(graph, node, ir.node("QuickGelu", [x], {"alpha": 1.0}, domain=_CONTRIB))
                graph.opset_imports[_CONTRIB] = 1
                modified = True
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _gated_by_itself(node: ir.Node) -> ir.Value | None:
    """``x`` where the node is ``x * sigmoid(x)``."""
    if node.op_type != "Mul" or node.domain != "":
        return None
    for x, gate in (node.inputs, reversed(node.inputs)):
        sigmoid = made_by(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return x
    return None


def _gate_in_integers(graph: ir.Graph, node: ir.Node) -> bool:
    x = node.inputs[0]
    source = made_by(x, "DequantizeLinear")
    if x is None or source is None:
        return False
    scale, zero_point = (constant(value) for value in source.inputs[1:3])
    if scale is None or zero_point is None or scale.size != 1:
        return False
    reach = round(HARD_SWISH_REACH / float(scale))
    lowest, highest = int(zero_point) - reach, min(int(zero_point) + reach, 255)
    if lowest < 0 or abs(reach * float(scale) / HARD_SWISH_REACH - 1) > _NEAR:
        return False
    name = f"{node.outputs[0].name}.gate"
    bounds = [
        add_initializer(graph, f"{name}.{end}", np.asarray(value, np.uint8))
        for end, value in (("low", lowest), ("high", highest))
    ]
    clip = ir.node("Clip", [source.inputs[0], *bounds], name=f"{name}.Clip")
    stored = typed(clip.outputs[0], f"{name}.stored", x.shape, ir.DataType.UINT8)
    sixth = add_initializer(graph, f"{name}.scale", (scale / np.float32(6)).astype(np.float32))
    dequantize = ir.node("DequantizeLinear", [stored, sixth, bounds[0]], name=f"{name}.DQ")
    gate = typed(dequantize.outputs[0], name, x.shape)
    graph.insert_before(node, [clip, dequantize])
    _replace(graph, node, ir.node("Mul", [x, gate]))
    return True


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """``new`` in the place of ``old``, with its name and its result's."""
    result, output = new.outputs[0], old.outputs[0]
    new.name, result.name = old.name, output.name
    result.shape, result.type = output.shape, output.type
    graph.insert_before(old, new)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(old, safe=True)
