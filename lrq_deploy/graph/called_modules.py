"""Modules that a graph calls."""

from typing import TypeVar

from torch import fx, nn

__all__ = ["called_module", "called_modules"]

M = TypeVar("M")


def called_module(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The one that ``node`` calls, None where it calls none."""
    return graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None


def called_modules(graph_module: fx.GraphModule, kind: type[M]) -> dict[str, M]:
    """Those of a kind by path, in the order of their first call."""
    paths = dict.fromkeys(
        str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"
    )
    modules = {path: graph_module.get_submodule(path) for path in paths}
    return {path: module for path, module in modules.items() if isinstance(module, kind)}
