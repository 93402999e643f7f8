"""What multiplies by stored numbers and is no layer, so that it runs in float everywhere."""

import math
import warnings
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from lrq_deploy.graph.operators import is_call, tensor_inputs

__all__ = ["stray_products"]

aten = torch.ops.aten

_UNCOUNTED = {aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix)}
"""What torch's counter does not know."""


def stray_products(
    student: fx.GraphModule, input_shape: tuple[int, int, int]
) -> dict[fx.Node, int]:
    """Operators that multiply the image by stored numbers and are no layer, in graph order.

    Returns:
        multiply-adds for one image. Attention is none of them, whatever it reads.
    """
    counter = _StrayCounter(student)
    with torch.no_grad(), warnings.catch_warnings():
        # The switch below warns that GPUs of Intel would have TF32.
        warnings.simplefilter("ignore")
        # Fused recurrent layers of oneDNN would count as nothing.
        with torch.backends.mkldnn.flags(enabled=False):
            counter.run(torch.zeros(1, *input_shape))
    return counter.strays


class _StrayCounter(fx.Interpreter):
    """Runs the graph once and counts what torch multiplies outside of layers."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.strays: dict[fx.Node, int] = {}
        self._stored = _stored_nodes(graph.graph)

    def run_node(self, n: fx.Node) -> Any:
        """Count where stored numbers meet computed ones."""
        if n.op != "call_function" or not self._mixes(n):
            return super().run_node(n)
        with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            result = super().run_node(n)
        if counter.get_total_flops():
            self.strays[n] = counter.get_total_flops() // 2
        return result

    def _mixes(self, node: fx.Node) -> bool:
        """Whether it reads both what is stored and what is made of the image."""
        if is_call(node, {aten.scaled_dot_product_attention.default}):
            return False
        stored = [n in self._stored for n in node.all_input_nodes]
        return any(stored) and not all(n in self._stored for n in tensor_inputs(node))


def _stored_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that no image reaches; copies of stored numbers for each image are stored."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        read = tensor_inputs(node)
        if node.op == "get_attr" or (node.op != "placeholder" and all(n in found for n in read)):
            found.add(node)
    return found
