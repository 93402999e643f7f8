"""Pass: graphs that run on any batch and layout, whatever batch they were traced with.

Requires: a captured graph with one input; nodes carry the shapes of the trace.
Ensures: the same function for the batch of the trace; views are reshapes with -1 for the batch. A
static archive has its example batch as a constant; a dynamic one a ``sym_size`` node.
"""

from typing import Any

import torch
from torch import fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.operators import VIEWS, arguments, is_call

__all__ = ["take_any_batch"]

aten = torch.ops.aten

_RECURRENT = {
    aten.lstm.input,
    aten.gru.input,
    aten.rnn_tanh.input,
    aten.rnn_relu.input,
}


def take_any_batch(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place.

    Raises:
        UnsupportedNetworkError: a recurrent layer of a static archive.
    """
    source = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    value = source.meta.get("val")
    static = value.shape[0] if value is not None and isinstance(value.shape[0], int) else None
    if static is not None:
        _check_recurrence(graph_module)
    for node in graph_module.graph.nodes:
        if is_call(node, VIEWS):
            node.target = aten.reshape.default
            shape = list(node.args[1])
            if shape and _is_batch(shape[0], static):
                node.args = (node.args[0], _shape_for_any_batch(node, shape))
        elif is_call(node, {aten.expand.default}):
            before, shape = node.args[0].meta.get("val"), list(node.args[1])
            # -1 keeps the size; a single row is repeated by whatever reads it next to a batch.
            same_rank = before is not None and before.dim() == len(shape)
            if same_rank and static is not None and shape[0] == static:
                node.args = (node.args[0], [-1, *shape[1:]])
    if static is not None:
        _repeat_constants(graph_module, source, static)


def _check_recurrence(graph_module: fx.GraphModule) -> None:
    """First states are constants of the archive's batch; torch reads beyond them for others."""
    for node in graph_module.graph.nodes:
        if is_call(node, _RECURRENT):
            raise UnsupportedNetworkError(
                "an archive of a recurrent network must take any batch",
                f"{node.target} with first states for a fixed batch",
                "export the archive with a dynamic batch",
            )


def _repeat_constants(graph_module: fx.GraphModule, source: fx.Node, static: int) -> None:
    """A row that is concatenated to each image (a class token) has as many copies as images."""
    graph = graph_module.graph
    made_of_image = {source}
    for node in list(graph.nodes):
        if not made_of_image.isdisjoint(node.all_input_nodes):
            made_of_image.add(node)
        if node not in made_of_image or node.target is not aten.cat.default:
            continue
        parts, axis = arguments(node)
        rows = [] if axis == 0 else [part for part in parts if part not in made_of_image]
        for part in rows:
            value = part.meta.get("val")
            if value is None or value.shape[0] not in (1, static):
                continue
            with graph.inserting_before(node):
                images = graph.call_function(aten.sym_size.int, (source, 0))
                row = graph.call_function(aten.slice.Tensor, (part, 0, 0, 1))
                sizes: list[Any] = [images, *[-1] * (value.dim() - 1)]
                repeated = graph.call_function(aten.expand.default, (row, sizes))
            row.meta["val"], repeated.meta["val"] = value[:1], value
            node.replace_input_with(part, repeated)


def _is_batch(size: Any, static: int | None) -> bool:
    symbolic = isinstance(size, fx.Node) and size.target is aten.sym_size.int
    return symbolic or (static is not None and size == static)


def _shape_for_any_batch(node: fx.Node, shape: list[Any]) -> list[Any]:
    """``shape`` with -1 for the batch; another -1 becomes the size that the trace found."""
    if -1 not in shape:
        return [-1, *shape[1:]]
    value = node.meta.get("val")
    sizes = [] if value is None else list(value.shape[1:])
    return [-1, *sizes] if sizes and all(isinstance(n, int) for n in sizes) else shape
