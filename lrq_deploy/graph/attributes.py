"""Tensors stored in a graph module, by the path that a ``get_attr`` node names."""

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = [
    "add_tensor_node",
    "drop_unread_tensors",
    "layer_of",
    "optional_tensor",
    "take_name",
    "tensor_of",
]


def tensor_of(graph_module: fx.GraphModule, node: Any) -> Tensor:
    """The tensor that a ``get_attr`` node stands for."""
    value = attrgetter(str(node.target))(graph_module)
    if not isinstance(value, Tensor):
        raise TypeError(f"{node.target} is {type(value).__name__}, not a tensor")
    return value


def optional_tensor(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """The tensor of a ``get_attr`` node, or ``None`` for an absent argument."""
    return tensor_of(graph_module, node) if isinstance(node, fx.Node) else None


def layer_of(weight: fx.Node) -> str:
    """Name in the network of the layer that a stored weight belongs to."""
    return str(weight.meta.get("layer", weight.target)).removesuffix(".weight")


def add_tensor_node(graph_module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Store ``value`` as a buffer under a free name and return a ``get_attr`` node for it.

    Floating point becomes float32. The node is created at the graph's current insertion point.
    """
    free = name.replace(".", "_")
    while hasattr(graph_module, free):
        free += "_"
    if isinstance(value, nn.Parameter):
        value = value.data
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    graph_module.register_buffer(free, value.detach().to(dtype).clone())
    return graph_module.graph.get_attr(free)


def drop_unread_tensors(graph_module: fx.GraphModule) -> None:
    """Remove parameters and buffers that neither a node nor a module that one calls reads."""
    read = {str(n.target) for n in graph_module.graph.nodes if n.op in ("get_attr", "call_module")}
    stored = (graph_module.named_parameters, graph_module.named_buffers)
    for name in [name for named in stored for name, _ in named(remove_duplicate=False)]:
        owner, _, leaf = name.rpartition(".")
        if name not in read and owner not in read:
            delattr(graph_module.get_submodule(owner), leaf)


def take_name(graph_module: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Put ``module`` at ``name``; a part of the network that is called so moves to a free name."""
    if hasattr(graph_module, name):
        free = f"{name}_"
        while hasattr(graph_module, free):
            free += "_"
        own = getattr(graph_module, name)
        delattr(graph_module, name)
        if isinstance(own, nn.Module):
            graph_module.add_module(free, own)
        else:
            graph_module.register_buffer(free, own)
        for node in graph_module.graph.nodes:
            path = str(node.target).split(".")
            if node.op == "get_attr" and path[0] == name:
                node.target = ".".join([free, *path[1:]])
    graph_module.add_module(name, module)
