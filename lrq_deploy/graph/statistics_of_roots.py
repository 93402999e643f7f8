"""Analysis: averages that only roots, logarithms and divisions read, such as a variance.

An 8-bit grid rounds the small ones to 0, where such a reader is steepest or not finite. The reader
works on floats anyway, so that integers in front of it gain nothing. What an inverse gives has no
bound either: a single channel of zeros would take the whole range of a product's operand.
"""

from typing import Any

import torch
from torch import fx

from lrq_deploy.graph.operators import (
    AVERAGES,
    RECTIFIERS,
    SUMS,
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

    These are the averages; what stands between them and their readers; the sums and products, such
    as a square, that nothing but these averages reads; and products with an inverse.
    """
    nodes = list(graph.nodes)
    leading: set[fx.Node] = set()
    for node in reversed(nodes):
        if node.users and all(
            _is_root(user) or (user in leading and _is_passed(user)) for user in node.users
        ):
            leading.add(node)
    averages = {node for node in nodes if node in leading and is_call(node, AVERAGES)}
    behind: set[fx.Node] = set()
    for node in nodes:
        reads = any(n in averages or n in behind for n in node.all_input_nodes)
        if reads and node in leading and _is_passed(node):
            behind.add(node)
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        only = node.users and all(user in averages or user in before for user in node.users)
        if only and (is_call(node, SUMS) or is_movement(node)):
            before.add(node)
    return averages | behind | before | _products_with_inverses(nodes)


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


def _is_root(node: fx.Node) -> bool:
    """Whether ``node`` is steep, or not finite, where it reads small values."""
    if is_call(node, {aten.div.Tensor}):
        return len(tensor_inputs(node)) == 2
    return is_call(node, _ROOTS) or _exponent(node) < 1


def _is_inverse(node: fx.Node) -> bool:
    """Whether the smallest values that ``node`` reads become the largest."""
    return is_call(node, {aten.rsqrt.default, aten.reciprocal.default}) or _exponent(node) < 0


def _exponent(node: fx.Node) -> float:
    """Of a power, 1 for other operators."""
    exponent: Any = node.args[1] if is_call(node, {aten.pow.Tensor_Scalar}) else 1
    return exponent if isinstance(exponent, int | float) else 1
