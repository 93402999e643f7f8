"""Multiply-adds of every weighted layer of a student."""

import math
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import WeightedLayer

__all__ = ["multiply_adds"]


def multiply_adds(model: QuantizedModel) -> dict[str, int]:
    """Multiply-adds for one image, by layer name in graph order."""
    counter = _Counter(model.graph)
    with torch.no_grad():
        counter.run(torch.zeros(1, *model.input_shape))
    return counter.counts


class _Counter(fx.Interpreter):
    """Runs the graph once and looks at the shapes around each layer."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.counts: dict[str, int] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count layers; a layer called twice counts twice."""
        result = super().call_module(target, args, kwargs)
        module = self.fetch_attr(str(target))
        if isinstance(module, WeightedLayer):
            count = _layer_count(module, args[0], result)
            self.counts[str(target)] = self.counts.get(str(target), 0) + count
        return result


def _layer_count(layer: WeightedLayer, x: Tensor, y: Tensor) -> int:
    """Elements of the output (of the input, if transposed) times the weights each one meets."""
    shape = layer.stored_weight.shape
    elements = x.numel() if layer.spec.kind == "conv_transpose2d" else y.numel()
    return elements * math.prod(shape[1:])
