"""Arguments of an operator, for numpy and for torch in float64."""

from typing import Any

from torch import Tensor


def as_numpy(value: Any) -> Any:
    """A tensor as an array, anything else as it is."""
    return value.numpy() if isinstance(value, Tensor) else value


def as_double(value: Any) -> Any:
    """A tensor of floats in float64, anything else as it is."""
    floats = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floats else value
