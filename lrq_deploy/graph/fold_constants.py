"""Pass: replace what does not depend on the image by its value.

Requires: a functional ATen graph whose parameters are ``get_attr`` nodes.
Ensures: the same function; every node but ``get_attr`` depends on the input. Weights that the
network computes (standardised, transposed, masked) are then stored like any other, and a number
that it reads from a stored tensor (``scale.item()``) is written where it is used.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import add_tensor_node, tensor_of

__all__ = ["fold_constants"]

_ARITHMETIC = {value for value in vars(operator).values() if callable(value)}
"""Of sizes and of numbers that were read from tensors; ``getitem`` is among it."""


def fold_constants(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place."""
    values: dict[fx.Node, Any] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            values[node] = tensor_of(graph_module, node)
        elif _is_constant(node, values):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        read = any(user not in values for user in node.users)
        if node.op == "get_attr" or not read:
            continue
        if isinstance(value, Tensor):
            _store(graph_module, node, value)
        elif isinstance(value, int | float):
            _write_out(node, value)
    graph_module.graph.eliminate_dead_code()


def _is_constant(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or any(n not in values for n in node.all_input_nodes):
        return False
    if node.target in _ARITHMETIC:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.returns:
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _store(graph_module: fx.GraphModule, node: fx.Node, value: Tensor) -> None:
    with graph_module.graph.inserting_before(node):
        constant = add_tensor_node(graph_module, _name(node), value)
    constant.meta["layer"] = str(constant.target).removesuffix("_weight")
    node.replace_all_uses_with(constant)


def _write_out(node: fx.Node, value: float) -> None:
    def number(argument: fx.Node) -> Any:
        return value if argument is node else argument

    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), number)


def _name(node: fx.Node) -> str:
    """That of the one stored tensor it is made of, where it is one."""
    while node.op != "get_attr" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return str(node.target) if node.op == "get_attr" else node.name
