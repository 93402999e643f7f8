"""What one image costs each weighted layer of a student, trained or frozen."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lrq_deploy.graph.capture import example_input
from lrq_deploy.student.layers import QuantizedLayer
from lrq_deploy.student.weighted import WeightedLayer

__all__ = ["LayerCost", "layer_costs"]


@dataclass(frozen=True)
class LayerCost:
    """Of one layer.

    Attributes:
        weight_shape: in the operator's own layout.
        multiply_adds: elements of the output (of the input, if transposed) times the weights that
            each one meets; a layer called twice counts twice.
        activations: elements of the input and of the output of one call.
    """

    weight_shape: tuple[int, ...]
    multiply_adds: int
    activations: int


def layer_costs(student: fx.GraphModule, input_shape: tuple[int, int, int]) -> dict[str, LayerCost]:
    """Costs for one image ``(C, H, W)``, by layer name in graph order."""
    meter = _Meter(student)
    with torch.no_grad():
        meter.run(example_input(input_shape, 1))
    return meter.costs


class _Meter(fx.Interpreter):
    """Runs one image and looks at the shapes around each layer."""

    def __init__(self, student: fx.GraphModule) -> None:
        super().__init__(student)
        self.costs: dict[str, LayerCost] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add the cost of a layer."""
        result = super().call_module(target, args, kwargs)
        layer, x, name = self.fetch_attr(str(target)), args[0], str(target)
        if isinstance(layer, QuantizedLayer | WeightedLayer):
            weight = layer.weight if isinstance(layer, QuantizedLayer) else layer.stored_weight
            elements = (x if layer.spec.kind == "conv_transpose2d" else result).numel()
            before = self.costs[name].multiply_adds if name in self.costs else 0
            count = before + elements * math.prod(weight.shape[1:])
            activations = x.numel() + result.numel()
            self.costs[name] = LayerCost(tuple(weight.shape), count, activations)
        return result
