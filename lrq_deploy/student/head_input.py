"""Pass: make what enters the last layer of a student an extra output.

Requires: a placed student.
Ensures: the returned graph shares all modules and gives ``(logits, head_input)``; ``head_input``
``[N, F]`` enters the last layer, None where that is not linear.
"""

from typing import Any

from torch import fx

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.student.layers import QuantizedLayer

__all__ = ["head_layer", "with_head_input"]


def with_head_input(student: fx.GraphModule) -> fx.GraphModule:
    """A view of ``student`` that also returns what its head receives."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    logits = graph.graph_copy(student.graph, copies)
    head: Any = student.graph.output_node().args[0]
    graph.output((logits, None if head_layer(student) is None else copies[head].args[0]))
    return fx.GraphModule(student, graph)


def head_layer(student: fx.GraphModule) -> QuantizedLayer | None:
    """The linear layer whose output is the logits, if the network ends in one."""
    head: Any = student.graph.output_node().args[0]
    layer = called_module(student, head)
    return layer if isinstance(layer, QuantizedLayer) and layer.spec.kind == "linear" else None
