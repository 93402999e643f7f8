"""Pass: bring a captured graph into the few forms that later passes know.

Requires: a functional ATen graph in evaluation mode.
Ensures: no tensor without values, constant subgraph, dropout, clone, assertion or full slice;
one operator per function (see ``variants``, ``average_forms``, ``maximum_forms``,
``movement_forms``, ``gates`` and ``head_form``); every BatchNorm is one node with one output and
stored statistics; a sigmoid, or a softmax over the classes, that ends the network is its last
node; the graph runs as before.
"""

import operator
import sys
from typing import Any

import torch
from torch import fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.attributes import drop_unread_tensors, layer_of
from lrq_deploy.graph.average_forms import unify_averages
from lrq_deploy.graph.fold_constants import fold_constants
from lrq_deploy.graph.gates import recognize_gates
from lrq_deploy.graph.head_form import unify_head
from lrq_deploy.graph.maximum_forms import unify_maxima
from lrq_deploy.graph.movement_forms import unify_movements
from lrq_deploy.graph.operators import BATCH_NORMS, IDENTITIES, WEIGHTED, arguments, is_call
from lrq_deploy.graph.outputs import put_probabilities_last
from lrq_deploy.graph.variants import unify_variants

__all__ = ["normalize"]

aten = torch.ops.aten

_ZEROS = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
"""For tensors that the network fills itself: what it leaves out should not differ by run."""


def normalize(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place.

    Raises:
        UnsupportedNetworkError: see ``unify_variants`` and ``unify_averages``; or a BatchNorm
            keeps no statistics.
    """
    graph = graph_module.graph
    _drop_assertions(graph)
    for node in graph.nodes:
        if is_call(node, _ZEROS):
            node.target = _ZEROS[node.target]
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}
    fold_constants(graph_module)
    for node in list(graph.nodes):
        if is_call(node, IDENTITIES) or _is_full_slice(node) or _keeps_type(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if is_call(node, {aten.slice_scatter.default}):
            _undo_scatter(node)
    graph.eliminate_dead_code()
    unify_variants(graph_module)
    unify_averages(graph)
    unify_maxima(graph_module)
    unify_movements(graph_module)
    recognize_gates(graph)
    put_probabilities_last(graph)
    unify_head(graph_module)
    for node in list(graph.nodes):
        if "batch_norm" in str(node.target) and node.op == "call_function":
            _check_statistics(node)
            _unify_batch_norm(graph, node)
        elif is_call(node, WEIGHTED):
            weight: Any = node.args[1]
            node.meta["layer"] = layer_of(weight)
    graph.eliminate_dead_code()
    graph.lint()
    graph_module.delete_all_unused_submodules()
    drop_unread_tensors(graph_module)
    graph_module.recompile()


def _drop_assertions(graph: fx.Graph) -> None:
    """Checks of types and sizes that held while tracing; some of them count as side effects."""
    for node in reversed(list(graph.nodes)):
        if str(node.target).startswith(("aten._assert", "aten.sym_constrain")) and not node.users:
            graph.erase_node(node)


def _is_full_slice(node: fx.Node) -> bool:
    if not is_call(node, {aten.slice.Tensor}):
        return False
    whole, *place = arguments(node)
    return _covers(place, whole, node)


def _undo_scatter(node: fx.Node) -> None:
    """``x[:, a:b] += y`` becomes ``slice_scatter(x, x[:, a:b] + y)``; read as what it writes."""
    whole, source, *place = arguments(node)
    if _covers(place, whole, source):
        node.replace_all_uses_with(source)
    for user in list(node.users):
        if is_call(user, {aten.slice.Tensor}) and arguments(user)[1:] == place:
            user.replace_all_uses_with(source)


def _covers(place: list[Any], whole: Any, part: Any) -> bool:
    """Whether a slice ``[dim, start, end, step]`` of ``whole``, as ``part`` is, is all of it."""
    dim, start, end, step = place
    if start not in (0, None) or step != 1:
        return False
    sizes = [n.meta["val"].shape[dim] for n in (whole, part) if n.meta.get("val") is not None]
    known = len(sizes) == 2 and all(isinstance(n, int) for n in sizes)
    return end in (None, sys.maxsize) or (known and bool(sizes[0] == sizes[1]))


def _keeps_type(node: fx.Node) -> bool:
    """A conversion from float32 to float32."""
    if not is_call(node, {aten._to_copy.default, aten.to.dtype}):
        return False
    before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
    return before is not None and after is not None and bool(before.dtype == after.dtype)


def _unify_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """``_native_batch_norm_legit_no_training(...)[0]`` becomes ``batch_norm(...)``."""
    if node.target is aten.batch_norm.default:
        node.meta["layer"] = _layer_name(node.args[3])
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
    unified.meta["layer"] = _layer_name(mean)


def _check_statistics(node: fx.Node) -> None:
    trains = node.target is aten.batch_norm.default and node.args[5]
    statistics = [a for a in node.args[3:5] if isinstance(a, fx.Node) and a.op == "get_attr"]
    if node.target not in BATCH_NORMS or trains or len(statistics) != 2:
        raise UnsupportedNetworkError(
            "every BatchNorm must use stored statistics",
            f"{node.name}, which normalises by the statistics of the batch",
            "call eval() on the network, and make it with track_running_stats=True",
        )


def _layer_name(mean: Any) -> str:
    return str(mean.target).removesuffix(".running_mean")
