"""Pass: make the feature points of a student extra outputs.

Requires: a placed student.
Ensures: the returned graph shares all modules and gives ``(logits, [features], head_input)``;
the features are outputs of activation quantizers, the same ones for the student and for its
float twin; ``head_input`` ``[N, F]`` enters the last layer, None where that is not linear.
"""

import torch
from torch import fx

from lrq_deploy.graph.operators import is_call
from lrq_deploy.student.layers import QuantizedLayer, is_quantizer

__all__ = ["head_layer", "with_features"]

aten = torch.ops.aten

FEWEST = 3
MOST = 12


def with_features(student: fx.GraphModule) -> fx.GraphModule:
    """A view of ``student`` that also returns the block outputs.

    Block outputs are the quantized sums of residual blocks; networks with fewer than three
    of them give evenly spread quantizers instead.
    """
    quantizers = [n for n in student.graph.nodes if is_quantizer(student, n)]
    sums = [n for n in quantizers if _follows_sum(n)]
    chosen = _spread(sums if len(sums) >= FEWEST else quantizers[1:])
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    logits = graph.graph_copy(student.graph, copies)
    head = _head(student)
    head_input = None if head is None else copies[head].args[0]
    graph.output((logits, [copies[n] for n in chosen], head_input))
    return fx.GraphModule(student, graph)


def head_layer(student: fx.GraphModule) -> QuantizedLayer | None:
    """The linear layer whose output is the logits, if the network ends in one."""
    node = _head(student)
    if node is None:
        return None
    layer = student.get_submodule(str(node.target))
    return layer if isinstance(layer, QuantizedLayer) else None


def _head(student: fx.GraphModule) -> fx.Node | None:
    node = student.graph.output_node().args[0]
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    layer = student.get_submodule(str(node.target))
    linear = isinstance(layer, QuantizedLayer) and layer.spec.kind == "linear"
    return node if linear else None


def _follows_sum(node: fx.Node) -> bool:
    source = node.args[0]
    while isinstance(source, fx.Node) and is_call(source, {aten.relu.default}):
        source = source.args[0]
    return is_call(source, {aten.add.Tensor}) if isinstance(source, fx.Node) else False


def _spread(nodes: list[fx.Node]) -> list[fx.Node]:
    """At most ``MOST`` of ``nodes``, evenly spaced, always with the last."""
    stride = max(-(-len(nodes) // MOST), 1)
    return nodes[::-1][::stride][::-1]
