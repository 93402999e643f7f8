"""Pass: linear layers over sequences read rows, as the integer kernels of runtimes do.

Requires: nodes carry the shapes of the trace.
Ensures: the same function; the input of every linear layer is ``[rows, features]`` where the
sizes between batch and features are known. ONNX Runtime multiplies ``[N, L, C]`` by a matrix and a
bias in float.
"""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.operators import is_call

__all__ = ["flatten_rows"]

aten = torch.ops.aten


def flatten_rows(graph: fx.Graph) -> None:
    """Apply the pass in place."""
    for node in list(graph.nodes):
        if is_call(node, {aten.linear.default}):
            _flatten(graph, node)


def _flatten(graph: fx.Graph, node: fx.Node) -> None:
    x: Any = node.args[0]
    before, after = x.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.dim() < 3:
        return
    sizes = _for_any_batch(graph, list(after.shape))
    if sizes is None or not isinstance(before.shape[-1], int):
        return
    with graph.inserting_before(node):
        rows = graph.call_function(aten.reshape.default, (x, [-1, before.shape[-1]]))
    with graph.inserting_after(node):
        restored = graph.call_function(aten.reshape.default, (node, sizes))
    node.replace_all_uses_with(restored, delete_user_cb=lambda user: user is not restored)
    node.args = (rows, *node.args[1:])
    restored.meta = dict(node.meta)
    node.meta = {key: value for key, value in node.meta.items() if key != "val"}


def _for_any_batch(graph: fx.Graph, sizes: list[Any]) -> list[Any] | None:
    """The sizes with -1 for the batch, wherever it stands; None where something else varies."""
    varying = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if not varying:
        image = next(node for node in graph.nodes if node.op == "placeholder").meta.get("val")
        varying = [0] if image is not None and image.shape[0] == sizes[0] else []
    if len(varying) != 1:
        return None
    return [-1 if axis in varying else size for axis, size in enumerate(sizes)]
