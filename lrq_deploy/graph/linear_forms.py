"""Products with a stored matrix as linear layers, however they are written.

Core ATen states a linear layer over ``[N, L, C]`` as ``expand, view, bmm, view, add``, with a copy
of the matrix for each image, or as ``view, mm, view``.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import add_tensor_node, tensor_of
from lrq_deploy.graph.operators import VIEWS, is_call
from lrq_deploy.graph.replacement import replace_call

__all__ = ["PRODUCTS", "as_linear"]

aten = torch.ops.aten

PRODUCTS = {aten.addmm.default, aten.bmm.default, aten.matmul.default, aten.mm.default}
"""Operators that may be a linear layer."""

_OF_A_MATRIX = {
    *VIEWS,
    aten.expand.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    operator.add,
    operator.floordiv,
    operator.mul,
    operator.sub,
}
"""What may stand between a stored matrix and its copies, with the sizes that these are made by."""


def as_linear(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Replace one of ``PRODUCTS``; a product of two computed tensors stays."""
    args: list[Any] = list(node.args)
    bias, x, operand = args if len(args) == 3 else [None, *args]
    matrix = _stored_matrix(graph_module, operand, copied=node.target is aten.bmm.default)
    if matrix is None or node.kwargs:
        return
    if bias is not None and (bias.op != "get_attr" or tensor_of(graph_module, bias).dim() != 1):
        return
    x, end = _between_views(x, node)
    if bias is None:
        bias, end = _bias_behind(graph_module, end, matrix.shape[1])
    stored = _stored_source(operand)
    with graph_module.graph.inserting_before(node):
        weight = add_tensor_node(graph_module, f"{stored.target}_rows", matrix.t())
    weight.meta["layer"] = stored.meta.get("layer", str(stored.target))
    replace_call(end, aten.linear.default, (x, weight, bias))


def _stored_matrix(graph_module: fx.GraphModule, node: fx.Node, copied: bool) -> Tensor | None:
    """The matrix ``[in, out]`` of a product; ``copied``: the operand has one for each image."""
    value = _value(graph_module, node) if copied or node.op == "get_attr" else None
    if copied and value is not None:
        value = value[0] if torch.equal(value, value[:1].expand_as(value)) else None
    return value if value is not None and value.dim() == 2 else None


def _value(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """What is made of stored tensors alone, for a batch of two; None where an image is read."""
    if node.op == "get_attr":
        return tensor_of(graph_module, node)
    if is_call(node, {aten.sym_size.int}):
        return 2
    if not is_call(node, _OF_A_MATRIX):
        return None
    parts = {part: _value(graph_module, part) for part in node.all_input_nodes}
    if any(part is None for part in parts.values()):
        return None
    return node.target(*fx.map_arg(node.args, parts.__getitem__))  # type: ignore[operator]


def _stored_source(node: fx.Node) -> fx.Node:
    while node.op != "get_attr":
        node = node.all_input_nodes[0]
    return node


def _between_views(x: fx.Node, node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Input and result of a product without the views around it that count its rows otherwise."""
    starts, ends = [x], [node]
    while is_call(starts[-1], {*VIEWS, aten.expand.default}):
        before: Any = starts[-1].args[0]
        sizes, old = _sizes(starts[-1]), _sizes(before)
        if sizes[-1:] != old[-1:] or (starts[-1].target not in VIEWS and sizes != old):
            break
        starts.append(before)
    while len(ends[-1].users) == 1 and is_call(user := next(iter(ends[-1].users)), VIEWS):
        if _sizes(user)[-1:] != _sizes(node)[-1:]:
            break
        ends.append(user)
    for end in reversed(ends):
        for start in reversed(starts):
            if _sizes(start) and _sizes(start)[:-1] == _sizes(end)[:-1]:
                return start, end
    return x, node


def _sizes(node: fx.Node) -> list[str]:
    """As text: asking whether symbols are equal would tie them. Empty where they are not known."""
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, Tensor) else []


def _bias_behind(
    graph_module: fx.GraphModule, node: fx.Node, width: int
) -> tuple[fx.Node | None, fx.Node]:
    """The stored row that the only reader of a product adds, and that reader."""
    user = next(iter(node.users), node)
    if len(node.users) != 1 or not is_call(user, {aten.add.Tensor}) or user.kwargs:
        return None, node
    other = next((part for part in user.args if part is not node), None)
    if not isinstance(other, fx.Node) or other.op != "get_attr":
        return None, node
    fits = tuple(tensor_of(graph_module, other).shape) == (width,)
    return (other, user) if fits else (None, node)
