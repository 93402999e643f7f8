"""Pass: a network that ends in a convolution over one place ends in a linear layer.

Requires: weights are stored; nodes carry the shapes of the trace; a softmax or sigmoid that ends
the network is its last node.
Ensures: the same function. A convolution whose kernel covers its whole input and whose result is
only reshaped to the logits is ``linear`` over ``[N, features]``: runtimes give a linear layer a
float result in integers, and the student's training reads what enters it.
"""

from typing import Any

from torch import Tensor, fx, ops

from lrq_deploy.graph.attributes import add_tensor_node, layer_of, tensor_of
from lrq_deploy.graph.operators import ORDER_KEEPING, is_call
from lrq_deploy.graph.outputs import PROBABILITIES
from lrq_deploy.graph.specification import layer_spec

__all__ = ["unify_head"]

aten = ops.aten


def unify_head(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place; what is replaced is left to dead code elimination."""
    graph = graph_module.graph
    logits: Any = graph.output_node().args[0]
    if is_call(logits, PROBABILITIES):
        logits = logits.args[0]
    node = logits
    while is_call(node, ORDER_KEEPING) and len(node.users) == 1:
        node = node.args[0]
    if node is logits or not _covers_its_input(graph_module, node):
        return
    if logits.meta["val"].dim() != 2 or logits.meta["val"].shape[1] != node.meta["val"].shape[1]:
        return
    x, stored, *bias = node.args[:3]
    with graph.inserting_before(node):
        weight = add_tensor_node(
            graph_module, f"{stored.target}_rows", tensor_of(graph_module, stored).flatten(1)
        )
        weight.meta["layer"] = layer_of(stored)
        rows = graph.call_function(aten.flatten.using_ints, (x, 1))
        head = graph.call_function(aten.linear.default, (rows, weight, *bias))
    rows.meta["val"] = x.meta["val"].flatten(1)
    head.meta = dict(logits.meta)
    logits.replace_all_uses_with(head)


def _covers_its_input(graph_module: fx.GraphModule, node: Any) -> bool:
    """Whether a convolution without padding sees each image once, as a whole."""
    if not is_call(node, {aten.conv2d.default}) or len(node.users) != 1:
        return False
    seen = node.args[0].meta.get("val")
    kernel = tensor_of(graph_module, node.args[1]).shape
    spec = layer_spec(node)
    whole = isinstance(seen, Tensor) and tuple(seen.shape[1:]) == tuple(kernel[1:])
    return whole and not any(spec.padding) and spec.groups == 1
