"""Pass: hard-sigmoid, hard-swish and SiLU written by hand become one operator each.

Requires: constants are folded.
Ensures: the same function up to rounding. ``clip(x + 3, 0, 6) / 6`` is ``hardsigmoid(x)``, and so
is ``clip(x / 6 + 0.5, 0, 1)``; a product of this or of ``sigmoid(x)`` with its own ``x`` is
``hardswish(x)`` or ``silu(x)`` (Howard et al. 2019, arXiv 1905.02244, section 5.2). Gates then have
the widths of gates, and no quantizer stands inside of one.
"""

import math
from typing import Any

import torch
from torch import fx

from lrq_deploy.graph.clipping import clip_limits
from lrq_deploy.graph.operators import is_call
from lrq_deploy.graph.replacement import replace_call

__all__ = ["HARD_SWISH_REACH", "recognize_gates"]

aten = torch.ops.aten

_SELF_GATED: dict[Any, Any] = {
    aten.hardsigmoid.default: aten.hardswish.default,
    aten.sigmoid.default: aten.silu.default,
}
"""What ``x * gate(x)`` is called."""

HARD_SWISH_REACH = 3.0
"""Half the width of the gate of a hard-swish, ``x * clip(x + 3, 0, 6) / 6``."""

_ROUNDING = 1e-6
"""Relative; a sixth is written as 1/6, 0.1666667 or rounded to float32."""


def recognize_gates(graph: fx.Graph) -> None:
    """Apply the pass in place; what is replaced is left to dead code elimination."""
    for node in list(graph.nodes):
        if (gated := _gated(node)) is not None:
            x, inner = gated
            with graph.inserting_before(node):
                gate = graph.call_function(aten.hardsigmoid.default, (inner,))
            gate.meta = dict(inner.meta)
            if x is None:
                node.replace_all_uses_with(gate)
            else:
                replace_call(node, aten.mul.Tensor, (x, gate))
    for node in list(graph.nodes):
        if (own := _own_gate(node)) is not None:
            replace_call(node, _SELF_GATED[own.target], own.args)


def _gated(node: fx.Node) -> tuple[fx.Node | None, fx.Node] | None:
    """``(x, y)`` of a node that is ``x * hardsigmoid(y)``; ``x`` is None where nothing is gated."""
    if (doubled := _clipped(node, 0.0, 1.0)) is not None:
        sixth = _plus(doubled, 0.5)
        inner = None if sixth is None else _times(sixth, 1 / 6)
        return None if inner is None else (None, inner)
    product = _times(node, 1 / 6)
    if product is None:
        return None
    if (inner := _relu6_of_plus_3(product)) is not None:
        return None, inner
    for x, gate in _factors(product):
        if (inner := _relu6_of_plus_3(gate)) is not None:
            return x, inner
    return None


def _relu6_of_plus_3(node: fx.Node) -> fx.Node | None:
    shifted = _clipped(node, 0.0, 6.0)
    return None if shifted is None else _plus(shifted, 3.0)


def _own_gate(node: fx.Node) -> fx.Node | None:
    """The gate of ``x * gate(x)``."""
    own = (gate for x, gate in _factors(node) if is_call(gate, _SELF_GATED) and gate.args[0] is x)
    return next(own, None)


def _factors(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Both orders of the factors of a product of two tensors."""
    if not is_call(node, {aten.mul.Tensor}):
        return []
    a, b = node.args
    return [(a, b), (b, a)] if isinstance(a, fx.Node) and isinstance(b, fx.Node) else []


def _clipped(node: fx.Node, low: float, high: float) -> fx.Node | None:
    """``x`` of ``clip(x, low, high)``."""
    x = node.args[0] if clip_limits(node) == (low, high) else None
    return x if isinstance(x, fx.Node) else None


def _plus(node: fx.Node, term: float) -> fx.Node | None:
    """``x`` of ``x + term``."""
    if is_call(node, {aten.add.Tensor}) and not node.kwargs:
        return _operand(node, term)
    return None


def _times(node: fx.Node, factor: float) -> fx.Node | None:
    """``x`` of ``x * factor`` or ``x / (1 / factor)``."""
    if is_call(node, {aten.mul.Tensor}):
        return _operand(node, factor)
    return _operand(node, 1 / factor) if is_call(node, {aten.div.Tensor}) else None


def _operand(node: fx.Node, number: float) -> fx.Node | None:
    x, other = node.args[:2]
    found = isinstance(other, int | float) and math.isclose(other, number, rel_tol=_ROUNDING)
    return x if found and isinstance(x, fx.Node) else None
