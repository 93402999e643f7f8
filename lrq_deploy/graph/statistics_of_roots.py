"""Analysis: averages that only roots, logarithms and divisions read, such as a variance.

An 8-bit grid rounds the small ones to 0, where such a reader is steepest or not finite. The reader
works on floats anyway, so that integers in front of it gain nothing. The same holds for a clamp
that keeps a divisor away from 0, which no step of a grid may undo. What an inverse gives has no
bound either: a single channel of zeros would take the whole range of a product's operand.
"""

from collections.abc import Callable

import torch
from torch import fx

from lrq_deploy.graph.clipping import clip_limits
from lrq_deploy.graph.operators import (
    AVERAGES,
    RECTIFIERS,
    SUMS,
    exponent,
    is_call,
    is_movement,
    tensor_inputs,
)

__all__ = ["statistics_of_roots"]

aten = torch.ops.aten

_ROOTS = {
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.log.default,
    aten.pow.Tensor_Tensor,
}

_PASSED = RECTIFIERS | SUMS | {aten.abs.default, aten.sign.default, aten.neg.default}
"""What may stand between an average and its root, as the product of ``LPPool2d``."""


def statistics_of_roots(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose operands and results stay float.

    These are the averages and the clamps; what stands between them and their readers; the sums and
    products, such as a square, that nothing but these reads; and products with an inverse.
    """
    nodes = list(graph.nodes)
    leading, dividing = _leading(nodes, _is_root), _leading(nodes, _is_steep)
    found = {node for node in leading if is_call(node, AVERAGES)}
    found |= {node for node in dividing if _is_guard(node)}
    behind: set[fx.Node] = set()
    for node in nodes:
        reads = any(n in found or n in behind for n in node.all_input_nodes)
        if reads and node in leading and _is_passed(node):
            behind.add(node)
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        only = node.users and all(user in found or user in before for user in node.users)
        if only and (is_call(node, SUMS) or is_movement(node)):
            before.add(node)
    return found | behind | before | _products_with_inverses(nodes)


def _leading(nodes: list[fx.Node], ends: Callable[[fx.Node, fx.Node], bool]) -> set[fx.Node]:
    """Nodes of which each reader ``ends`` the way, or passes it on to such readers alone."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.users and all(
            ends(user, node) or (user in found and _is_passed(user)) for user in node.users
        ):
            found.add(node)
    return found


def _products_with_inverses(nodes: list[fx.Node]) -> set[fx.Node]:
    inverses: set[fx.Node] = set()
    products: set[fx.Node] = set()
    for node in nodes:
        reads = any(n in inverses for n in node.all_input_nodes)
        alone = len(tensor_inputs(node)) == 1
        if _is_inverse(node) or (reads and alone and (is_movement(node) or is_call(node, SUMS))):
            inverses.add(node)
        elif reads and is_call(node, {aten.mul.Tensor}):
            products.add(node)
    return products


def _is_passed(node: fx.Node) -> bool:
    return is_call(node, _PASSED) or is_movement(node)


def _is_guard(node: fx.Node) -> bool:
    """Whether ``node`` keeps what it reads away from 0."""
    limits = clip_limits(node)
    return limits is not None and limits[0] is not None and limits[0] > 0


def _is_root(node: fx.Node, read: fx.Node) -> bool:
    """Whether ``node`` is steep where it reads small values, or a ratio of two tensors."""
    if is_call(node, {aten.div.Tensor}):
        return len(tensor_inputs(node)) == 2
    return _is_steep(node, read)


def _is_steep(node: fx.Node, read: fx.Node) -> bool:
    """Whether ``node`` is steep, or not finite, where ``read`` is small."""
    if is_call(node, {aten.div.Tensor}):
        return node.args[1] is read
    return is_call(node, _ROOTS) or exponent(node) < 1


def _is_inverse(node: fx.Node) -> bool:
    """Whether the smallest values that ``node`` reads become the largest."""
    return is_call(node, {aten.rsqrt.default, aten.reciprocal.default}) or exponent(node) < 0
