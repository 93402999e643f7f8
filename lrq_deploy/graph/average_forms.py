"""Pass: average poolings that every runtime computes alike.

Requires: nodes carry the shapes of the trace.
Ensures: the same function; no ``avg_pool2d`` has a divisor of its own, which ONNX cannot state,
and none with ``ceil_mode`` counts padding, where ONNX Runtime's integer kernel divides by another
number than its float kernel (1.32).
"""

import math
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.operators import arguments, is_call
from lrq_deploy.graph.replacement import replace_call
from lrq_deploy.graph.specification import pair

__all__ = ["unify_averages"]

aten = torch.ops.aten


def unify_averages(graph: fx.Graph) -> None:
    """Apply the pass in place.

    Raises:
        UnsupportedNetworkError: a divisor, or counted padding, whose windows hang over the edge.
    """
    for node in list(graph.nodes):
        if not is_call(node, {aten.avg_pool2d.default}):
            continue
        args = arguments(node)
        if args[6] is not None:
            _state_divisor(node, args)
        elif args[4] and args[5]:
            _leave_padding_out(node, args)


def _state_divisor(node: fx.Node, args: list[Any]) -> None:
    """A sum divided by ``d`` is the mean times ``kernel / d``."""
    x, kernel, stride, padding, ceil_mode, _, divisor = args
    if ceil_mode:
        raise _overhanging(node, "a divisor of its own and ceil_mode")
    with node.graph.inserting_before(node):
        mean = node.graph.call_function(
            aten.avg_pool2d.default, (x, kernel, stride, padding, False, True)
        )
    mean.meta = dict(node.meta)
    replace_call(node, aten.mul.Tensor, (mean, math.prod(pair(kernel)) / divisor))


def _leave_padding_out(node: fx.Node, args: list[Any]) -> None:
    """Without padding nothing is counted; elsewhere zeros are put there, which then are data."""
    x, kernel, stride, padding, *_ = args
    high, wide = pair(padding)
    if high or wide:
        if not _same_windows(node, x, args):
            raise _overhanging(node, "ceil_mode, counted padding and a window of padding alone")
        with node.graph.inserting_before(node):
            sides = [wide, wide, high, high]
            x = node.graph.call_function(aten.constant_pad_nd.default, (x, sides))
    replace_call(node, aten.avg_pool2d.default, (x, kernel, stride, [0, 0], True, False))


def _same_windows(node: fx.Node, x: fx.Node, args: list[Any]) -> bool:
    """Whether padding first gives as many windows; the last one must begin before the padding."""
    before, after = x.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    step = pair(args[2]) if args[2] else pair(args[1])
    sizes = zip(
        before.shape[-2:], after.shape[-2:], pair(args[1]), step, pair(args[3]), strict=True
    )
    return all(-((k - n - 2 * p) // s) + 1 == count for n, count, k, s, p in sizes)


def _overhanging(node: fx.Node, received: str) -> UnsupportedNetworkError:
    return UnsupportedNetworkError(
        "an average pooling must divide by the size of its windows",
        f"{received} at {node.name}",
        "pass count_include_pad=False, or ceil_mode=False, in the network",
    )
