"""Spatial means become ``GlobalAveragePool``."""

import onnx_ir as ir

from lrq_deploy.export.passes._matching import constant, is_quantizer

__all__ = ["GlobalPoolPass"]


class GlobalPoolPass(ir.passes.InPlacePass):
    """``ReduceMean`` over height and width -> ``GlobalAveragePool``.

    ONNX Runtime has an integer kernel for the pooling, none for the mean.

    Ensures: no ``ReduceMean`` over exactly the two last axes of a rank-4 tensor. Where it drops
    its dimensions a ``Flatten`` follows, behind the quantizer where there is one.
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
    pooled = ir.Value(
        name=output.name if keep else f"{output.name}.pooled",
        shape=ir.Shape([x.shape[0], x.shape[1], 1, 1]),
        type=output.type,
    )
    new = ir.node("GlobalAveragePool", [x], outputs=[pooled], name=node.name)
    graph.insert_before(node, new)
    if not keep:
        _flatten_behind_quantizers(graph, node, pooled)
        pooled = _flattened(graph, node, pooled) if _is_read(output) else pooled
    output.replace_all_uses_with(pooled, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _flatten_behind_quantizers(graph: ir.Graph, mean: ir.Node, pooled: ir.Value) -> None:
    """Quantizers of ``mean`` read ``pooled``, so that the pooling lies between integers."""
    for quantizer, index in list(mean.outputs[0].uses()):
        if not is_quantizer(quantizer):
            continue
        quantizer.replace_input_with(index, pooled)
        result = quantizer.outputs[0]
        readers, is_output = list(result.uses()), result.is_graph_output()
        flat = _flattened(graph, quantizer, result)
        result.name, result.shape = f"{flat.name}.pooled", pooled.shape
        for reader, place in readers:
            reader.replace_input_with(place, flat)
        if is_output:
            outputs = graph.outputs
            outputs[:] = [flat if value is result else value for value in outputs]


def _flattened(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """``value`` ``[N, C, 1, 1]`` as ``[N, C]``, named as the result of ``node``."""
    output = node.outputs[0]
    flat = ir.Value(name=output.name, shape=output.shape, type=output.type)
    name = f"{output.name}.flat"
    graph.insert_after(node, ir.node("Flatten", [value], {"axis": 1}, outputs=[flat], name=name))
    return flat
