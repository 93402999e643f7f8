"""Pass: bring a captured graph into the few forms that later passes know.

Requires: a functional ATen graph in evaluation mode.
Ensures: no dropout, clone or full slice; every BatchNorm is one node with one output that
stands for its first result; the graph runs as before.
"""

import operator
import sys

import torch
from torch import fx

from lrq_deploy.graph.operators import BATCH_NORMS, IDENTITIES, WEIGHTED, is_call

__all__ = ["normalize"]

aten = torch.ops.aten


def normalize(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if is_call(node, WEIGHTED) and isinstance(node.args[1], fx.Node):
            node.meta["layer"] = str(node.args[1].target).removesuffix(".weight")
        if is_call(node, IDENTITIES) or _is_full_slice(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif is_call(node, BATCH_NORMS):
            _unify_batch_norm(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    graph_module.delete_all_unused_submodules()
    _drop_unused_attributes(graph_module)
    graph_module.recompile()


def _is_full_slice(node: fx.Node) -> bool:
    if not is_call(node, {aten.slice.Tensor}):
        return False
    start = node.args[2] if len(node.args) > 2 else 0
    end = node.args[3] if len(node.args) > 3 else sys.maxsize
    step = node.args[4] if len(node.args) > 4 else 1
    return start in (0, None) and end in (None, sys.maxsize) and step == 1


def _unify_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """``_native_batch_norm_legit_no_training(...)[0]`` becomes ``batch_norm(...)``."""
    if node.target is aten.batch_norm.default:
        return
    x, weight, bias, mean, var, momentum, eps = node.args
    with graph.inserting_before(node):
        unified = graph.call_function(
            aten.batch_norm.default, (x, weight, bias, mean, var, False, momentum, eps, False)
        )
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            unified.meta = dict(user.meta)
            user.replace_all_uses_with(unified)
        graph.erase_node(user)
    graph.erase_node(node)


def _drop_unused_attributes(graph_module: fx.GraphModule) -> None:
    """Remove parameters and buffers that no node reads (``num_batches_tracked``, say)."""
    used = {str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr"}
    names = [n for n, _ in graph_module.named_parameters(remove_duplicate=False)]
    names += [n for n, _ in graph_module.named_buffers(remove_duplicate=False)]
    for name in names:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(graph_module.get_submodule(owner), leaf)
