"""The edit that rewriting passes share."""

from typing import Any

from torch import fx

__all__ = ["replace_call"]


def replace_call(node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Put ``target(*args)``, which computes the same, in the place of ``node``."""
    with node.graph.inserting_before(node):
        call = node.graph.call_function(target, args)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)
    return call
