"""Analysis: what the operators of a graph say of the values of its tensors."""

import torch
from torch import fx

from lrq_deploy.graph.clipping import clip_limits
from lrq_deploy.graph.operators import (
    AVERAGES,
    CONCATENATIONS,
    NON_NEGATIVE,
    is_call,
    is_movement,
    tensor_inputs,
)
from lrq_deploy.student.layers import is_quantizer

__all__ = ["largest_values", "non_negative_nodes"]

aten = torch.ops.aten

_UP_TO_ONE = {aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int}


def non_negative_nodes(graph: fx.Graph, input_is_non_negative: bool) -> set[fx.Node]:
    """Nodes whose every value is at least 0, by the operators that made them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            holds = input_is_non_negative
        elif is_call(node, NON_NEGATIVE) or _clips_at_zero(node):
            holds = True
        elif is_call(node, {aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor}):
            constants = [*node.args, *node.kwargs.values()]
            known = all(n in found for n in node.all_input_nodes)
            holds = known and all(c >= 0 for c in constants if isinstance(c, int | float))
        elif is_movement(node) or is_call(node, AVERAGES | CONCATENATIONS):
            # A constant that is expanded to the batch has no such input, and any sign.
            holds = bool(tensor_inputs(node)) and all(n in found for n in tensor_inputs(node))
        else:
            holds = False
        if holds:
            found.add(node)
    return found


def largest_values(student: fx.GraphModule) -> dict[fx.Node, float]:
    """What no value of a node exceeds, for the nodes of a student whose operators state it."""
    found: dict[fx.Node, float] = {}
    for node in student.graph.nodes:
        sources = tensor_inputs(node)
        known = [found[n] for n in sources if n in found]
        limits = clip_limits(node)
        largest: float | None = None
        if limits is not None:
            low, high = limits
            largest = min(known if high is None else [*known, high], default=None)
            largest = largest if largest is None or low is None else max(largest, low)
        elif is_call(node, _UP_TO_ONE):
            largest = 1.0
        elif sources and len(known) == len(sources) and _keeps_bounds(student, node):
            largest = max([0.0, *known])  # what is padded is 0
        if largest is not None:
            found[node] = largest
    return found


def _keeps_bounds(student: fx.GraphModule, node: fx.Node) -> bool:
    return (
        is_movement(node) or is_call(node, AVERAGES | CONCATENATIONS) or is_quantizer(student, node)
    )


def _clips_at_zero(node: fx.Node) -> bool:
    limits = clip_limits(node)
    return limits is not None and limits[0] is not None and limits[0] >= 0
