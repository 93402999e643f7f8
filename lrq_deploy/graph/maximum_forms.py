"""Pass: adaptive maximum poolings that runtimes know.

Requires: nodes carry the shapes of the trace.
Ensures: the same function; where the sides of an ``adaptive_max_pool2d`` are no multiples of those
of its result, which ONNX cannot state, it is a ``max_pool2d``, if need be of selected positions.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import add_tensor_node
from lrq_deploy.graph.operators import is_call

__all__ = ["unify_maxima"]

aten = torch.ops.aten


def unify_maxima(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place."""
    for node in list(graph_module.graph.nodes):
        if not is_call(node, {aten.adaptive_max_pool2d.default}):
            continue
        value = node.args[0].meta.get("val")
        known = isinstance(value, Tensor) and all(isinstance(n, int) for n in value.shape[-2:])
        indices = any(user.args[1] != 0 for user in node.users)
        if known and not indices:
            _state_windows(graph_module, node, list(value.shape[-2:]))


def _state_windows(graph_module: fx.GraphModule, node: fx.Node, sides: list[int]) -> None:
    moved: Any = node.args[0]
    wanted: Any = node.args[1]
    if all(side % count == 0 for side, count in zip(sides, wanted, strict=True)):
        return
    kernel, stride = [], []
    with node.graph.inserting_before(node):
        for axis, side, count in zip((-2, -1), sides, wanted, strict=True):
            starts = [place * side // count for place in range(count)]
            ends = [-(-(place + 1) * side // count) for place in range(count)]
            size = max(end - start for start, end in zip(starts, ends, strict=True))
            steps = {after - before for before, after in pairwise(starts)} or {size}
            step = steps.pop()
            if steps or not step or not ends[0] == size == ends[-1] - starts[-1]:
                # A window that is too small repeats its last position.
                windows = [range(start, start + size) for start in starts]
                places = [min(n, end - 1) for w, end in zip(windows, ends, strict=True) for n in w]
                index = add_tensor_node(
                    graph_module, f"{node.name}_positions", torch.tensor(places)
                )
                moved = node.graph.call_function(aten.index_select.default, (moved, axis, index))
                step = size
            kernel.append(size)
            stride.append(step)
        pooled = node.graph.call_function(aten.max_pool2d.default, (moved, kernel, stride))
    for user in list(node.users):
        pooled.meta = dict(user.meta)
        user.replace_all_uses_with(pooled)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
