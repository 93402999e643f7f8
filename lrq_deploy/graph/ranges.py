"""Analysis: which tensors can never be negative."""

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

__all__ = ["non_negative_nodes"]

aten = torch.ops.aten


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


def _clips_at_zero(node: fx.Node) -> bool:
    limits = clip_limits(node)
    return limits is not None and limits[0] is not None and limits[0] >= 0
