"""How large the values of a layer are, which rates of training are relative to."""

from torch import Tensor

from lrq_deploy.student.layers import QuantizedLayer

__all__ = ["bias_size", "weight_size"]

_BIAS_FROM = 1e-3
"""A bias near 0 moves as one of this size, or of that of the weights where they are smaller."""


def weight_size(layer: QuantizedLayer) -> float:
    """Root mean square of the weights."""
    return _root_mean_square(layer.weight)


def bias_size(layer: QuantizedLayer) -> float:
    """Root mean square of the biases; 0 without any, and not as near to 0 as they may lie."""
    if layer.bias is None:
        return 0.0
    return max(_root_mean_square(layer.bias), min(_BIAS_FROM, weight_size(layer)))


def _root_mean_square(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt())
