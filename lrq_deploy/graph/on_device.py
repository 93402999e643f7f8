"""A graph moves to a device with the tensors that it makes while it runs.

What a network makes of nothing (``torch.zeros(x.shape[0], 8)``) names the device of the trace,
unless its size is known: then it is a stored tensor by now (see ``fold_constants``).
"""

import torch
from torch import fx

__all__ = ["on_device"]


def on_device(graph_module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Move ``graph_module`` in place; the same graph."""
    makers = [n for n in graph_module.graph.nodes if n.kwargs.get("device") not in (None, device)]
    for node in makers:
        node.update_kwarg("device", device)
    if makers:
        graph_module.recompile()
    return graph_module.to(device)
