"""Data movement runs on the stored integers instead of on dequantized floats."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import add_initializer, constant, require_lowered, typed

__all__ = ["MOVES", "IntegerMovementPass"]

# Operators that only move, repeat or select elements: they commute with a per-tensor
# dequantization, and ONNX Runtime has uint8 kernels for each.
MOVES = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)

# The same, but without a kernel for integers: they run on floats and the result, which lies on
# the grid already, is stored again.
_FLOAT_MOVES = frozenset({"Expand", "GlobalMaxPool", "ReduceMax", "ReduceMin"})


class IntegerMovementPass(ir.passes.InPlacePass):
    """``DequantizeLinear`` -> movement becomes movement -> ``DequantizeLinear``.

    Requires: activation quantizers are lowered.
    Ensures: no data movement reads a per-tensor dequantized input, except padding with
    something else than zero, and concatenation of different scales (a kernel of its own); the
    result of a maximum over positions is stored again.
    """

    def requires(self, model: ir.Model) -> None:
        """Check the precondition."""
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Walk in execution order, so that chains of movements are crossed one by one."""
        modified = False
        for node in list(model.graph):
            sources = _dequantized_inputs(node)
            if sources and _movable(node):
                _move(model.graph, node, sources)
                modified = True
            elif sources and node.op_type in _FLOAT_MOVES:
                _store_again(model.graph, node, sources[0])
                modified = True
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _dequantized_inputs(node: ir.Node) -> list[ir.Node]:
    """The dequantizations that feed the data inputs, empty unless all share their parameters."""
    inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    sources = [value.producer() if value is not None else None for value in inputs]
    found = [s for s in sources if s is not None and s.op_type == "DequantizeLinear"]
    if len(found) != len(sources) or not found:
        return []
    parameters = {tuple(_numbers(value) for value in node.inputs[1:3]) for node in found}
    return found if len(parameters) == 1 and "axis" not in found[0].attributes else []


def _numbers(value: ir.Value | None) -> tuple[float, ...]:
    array = constant(value)
    return () if array is None else tuple(array.reshape(-1).tolist())


def _movable(node: ir.Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1 or not node.outputs[1].uses()
    if node.op_type == "Resize":
        return "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    if node.op_type != "Pad":
        return node.op_type in MOVES or node.op_type == "Concat"
    if "mode" in node.attributes and node.attributes["mode"].as_string() != "constant":
        return True
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.zeros(1)
    return fill is not None and not np.any(fill)


def _move(graph: ir.Graph, node: ir.Node, sources: list[ir.Node]) -> None:
    scale, zero_point = sources[0].inputs[1], sources[0].inputs[2]
    for index, source in enumerate(sources):
        node.replace_input_with(index, source.inputs[0])
    if node.op_type == "Pad":
        _pad_with_zero_point(graph, node, zero_point)
    for output in node.outputs:
        real = _take_over(output)
        output.name, output.type = f"{real.name}.stored", ir.TensorType(ir.DataType.UINT8)
        inputs = [output, scale, zero_point]
        after = ir.node("DequantizeLinear", inputs, outputs=[real], name=f"{real.name}.DQ")
        graph.insert_after(node, after)


def _store_again(graph: ir.Graph, node: ir.Node, source: ir.Node) -> None:
    output = node.outputs[0]
    real = _take_over(output)
    output.name = f"{real.name}.unstored"
    parameters = source.inputs[1:3]
    quantize = ir.node("QuantizeLinear", [output, *parameters], name=f"{real.name}.Q")
    stored = typed(quantize.outputs[0], f"{real.name}.stored", output.shape, ir.DataType.UINT8)
    inputs = [stored, *parameters]
    after = ir.node("DequantizeLinear", inputs, outputs=[real], name=f"{real.name}.DQ")
    graph.insert_after(node, [quantize, after])


def _take_over(output: ir.Value) -> ir.Value:
    """A float value of the same name and shape that all readers of ``output`` read instead."""
    real = ir.Value(name=output.name, shape=output.shape, type=ir.TensorType(ir.DataType.FLOAT))
    output.replace_all_uses_with(real, replace_graph_outputs=True)
    return real


def _pad_with_zero_point(graph: ir.Graph, node: ir.Node, zero_point: ir.Value | None) -> None:
    """A real 0 is stored as the zero point."""
    array = constant(zero_point)
    if array is None:
        return
    fill = add_initializer(graph, f"{node.outputs[0].name}.fill", array.astype(np.uint8))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, fill)
