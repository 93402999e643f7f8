"""Names what the ONNX exporter stopped at: the operator, and the line of the network with it."""

import re

import torch
from torch import fx

from lrq_deploy.graph.capture_errors import is_of_the_network

__all__ = ["describe_failure", "place_of"]

_UNKNOWN = re.compile(r"OpOverload\(op='(\w+)\.(\w+)', overload='(\w+)'\)")
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def describe_failure(error: Exception, graph: fx.GraphModule) -> str:
    """One line on a failed export.

    Args:
        error: of ``torch.onnx.export``.
        graph: that was exported; its nodes know the lines that they were traced from.
    """
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    message = str(error)
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        lines = message.strip().splitlines()
        return lines[0] if lines else type(error).__name__
    namespace, name, overload = unknown.groups()
    return f"{namespace}.{name}.{overload}{_place(graph, name.removeprefix('_'))}"


def _place(graph: fx.GraphModule, name: str) -> str:
    """Where the network calls an operator whose own name ends in ``name``."""
    for node in graph.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            continue
        if target.overloadpacket.__name__.endswith(name):
            return place_of(node)
    return ""


def place_of(node: fx.Node) -> str:
    """`` at FILE:LINE`` of the network's source that a node was traced from, as far as known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if is_of_the_network(file)]
    return f" at {own[-1][0]}:{own[-1][1]}" if own else ""
