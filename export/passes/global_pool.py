"""Spatial means become ``GlobalAveragePool``."""

import onnx_ir as ir

from lrq_deploy.export.passes._matching import constant

__all__ = ["GlobalPoolPass"]


class GlobalPoolPass(ir.passes.InPlacePass):
    """``ReduceMean`` over height and width -> ``GlobalAveragePool``.

    ONNX Runtime has an integer kernel for the pooling, none for the mean.

    Ensures: no ``ReduceMean`` over exactly the two last axes of a rank-4 tensor that keeps
    its dimensions, or drops them (then a ``Flatten`` follows).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every matching node."""
        matches = [node for node in model.graph if _is_spatial_mean(node)]
        for node in matches:
            _replace(model.graph, node)
        return ir.passes.PassResult(model, bool(matches))


def _is_spatial_mean(node: ir.Node) -> bool:
    if node.op_type != "ReduceMean" or node.domain != "" or len(node.inputs) < 2:
        return False
    x, axes = node.inputs[0], constant(node.inputs[1])
    if x is None or x.shape is None or len(x.shape) != 4 or axes is None:
        return False
    return sorted(int(a) % 4 for a in axes.reshape(-1)) == [2, 3]


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    x, output = node.inputs[0], node.outputs[0]
    keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    if x is None or x.shape is None:
        return
    name = output.name
    pooled = ir.Value(
        name=name if keep else f"{name}.pooled",
        shape=ir.Shape([x.shape[0], x.shape[1], 1, 1]),
        type=output.type,
    )
    new = [ir.node("GlobalAveragePool", [x], outputs=[pooled], name=node.name)]
    final = pooled
    if not keep:
        final = ir.Value(name=name, shape=output.shape, type=output.type)
        attributes = {"axis": 1}
        new.append(ir.node("Flatten", [pooled], attributes, outputs=[final], name=f"{name}.flat"))
    graph.insert_before(node, new)
    output.replace_all_uses_with(final, replace_graph_outputs=True)
    graph.remove(node, safe=True)
