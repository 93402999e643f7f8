"""Pass: roots whose gradient stays finite where they read 0.

Requires: a graph that is only trained through, not exported.
Ensures: the same values; what ``sqrt`` and powers below 1 give back is 0 where it was infinite.
A pooled map that a quantizer rounds to 0 would otherwise end training (GeM and LP pooling).
"""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.operators import exponent, is_call

__all__ = ["finite_gradients"]

aten = torch.ops.aten


def finite_gradients(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Apply the pass in place; the same graph."""
    roots = [node for node in graph_module.graph.nodes if _is_root(node)]
    for node in roots:
        with graph_module.graph.inserting_before(node):
            read = graph_module.graph.call_function(_finite, (node.args[0],))
        node.args = (read, *node.args[1:])
    if roots:
        graph_module.recompile()
    return graph_module


def _is_root(node: fx.Node) -> bool:
    return is_call(node, {aten.sqrt.default}) or 0 < exponent(node) < 1


class _Finite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].nan_to_num(0.0, 0.0, 0.0)


def _finite(x: Tensor) -> Tensor:
    """``x``, whose gradient is 0 where it is not finite."""
    finite: Tensor = _Finite.apply(x)
    return finite
