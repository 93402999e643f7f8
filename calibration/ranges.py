"""Range search: the scale that loses least, by trying many clip ratios.

The loss is the mean of ``|x - fake_quant(x)| ** 2.4`` over the values of one tensor or channel
(the exponent of Genie, arXiv 2212.04780, and BRECQ, arXiv 2102.05426: between the mean and the
largest error). ``real = scale * (q - zero_point)``.
"""

import math
from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor

from lrq_deploy.errors import DivergenceError
from lrq_deploy.scheme import IntegerRange

__all__ = [
    "MIN_SCALE",
    "extreme_range",
    "full_scale",
    "full_weight_scale",
    "search_act_range",
    "search_weight_scale",
    "whole_range",
]

EXPONENT = 2.4
RATIOS = 100
COARSE_SAMPLE = 16_384
"""Values of an activation on which a search with a zero point begins."""
LARGEST_SAMPLE = 2**22
"""Weights of one layer that the search looks at: seconds instead of minutes for VGG's."""

MIN_SCALE = 1e-8
"""Smallest scale: a dead channel still needs a positive one."""


def search_weight_scale(weight: Tensor, axis: int, bounds: IntegerRange) -> Tensor:
    """Best symmetric scale per output channel.

    Args:
        weight: float weight, any layout.
        axis: its output-channel axis; C channels.
        bounds: stored integers.

    Returns:
        Scales ``[C]``, each at least ``MIN_SCALE``.
    """
    rows = weight.detach().transpose(0, axis).flatten(1)
    full = full_weight_scale(weight, axis, bounds)
    # Every row keeps its limits; the loss of a huge layer is that of evenly spread columns.
    rows = rows[:, :: max(-(-rows.numel() // LARGEST_SAMPLE), 1)]
    best = full.clone()
    best_loss = torch.full_like(full, torch.inf)
    for ratio in torch.linspace(1.0, 0.01, RATIOS).tolist():
        scale = (full * ratio).clamp_min(MIN_SCALE)[:, None]
        q = torch.clamp(torch.round(rows / scale), bounds.qmin, bounds.qmax)
        loss = (q * scale - rows).abs().pow(EXPONENT).mean(1)
        better = loss < best_loss
        best = torch.where(better, scale[:, 0], best)
        best_loss = torch.where(better, loss, best_loss)
    return best


def full_weight_scale(weight: Tensor, axis: int, bounds: IntegerRange) -> Tensor:
    """Symmetric scale per output channel ``[C]`` that clips no weight."""
    rows = weight.detach().transpose(0, axis).flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    return torch.maximum(high / bounds.qmax, low / bounds.qmin).clamp_min(MIN_SCALE)


def search_act_range(
    values: Tensor, bounds: IntegerRange, signed: bool, symmetric: bool
) -> tuple[float, int]:
    """Best scale and zero point of an activation.

    Args:
        values: sample of the tensor, flat.
        bounds: stored integers.
        signed: whether the tensor may be negative; if not, the range starts at 0.
        symmetric: keep the zero point at 0.

    Returns:
        ``(scale, zero_point)``; 0 is exactly representable. Values that are all 0 tell nothing
        of the range and get ``0..1``.

    Raises:
        DivergenceError: a value is NaN or infinite.
    """
    low, high = _extremes(values)
    if low == high:
        return 1.0 / bounds.qmax, 0
    if signed and not symmetric:
        return _search_both_sides(values, low, high, bounds)
    full = full_scale(low, high, bounds)
    ratios = torch.linspace(1.0, 0.01, RATIOS).tolist()
    scales = (max(full * ratio, MIN_SCALE) for ratio in ratios)
    return min(scales, key=lambda scale: _loss(values, scale, 0, bounds)), 0


def _search_both_sides(
    values: Tensor, low: float, high: float, bounds: IntegerRange
) -> tuple[float, int]:
    """Each side keeps its own share: steps of 5 % on a part of the values, then of 1 % on all."""
    part = values[:: max(values.numel() // COARSE_SAMPLE, 1)]
    steps = range(100, 0, -5)
    kept = _best_percent(part, low, high, bounds, product(steps, steps))
    below, above = (range(min(side + 4, 100), max(side - 5, 0), -1) for side in kept)
    kept = _best_percent(values, low, high, bounds, product(below, above))
    return _clipped_range(low, high, kept, bounds)


def _best_percent(
    values: Tensor,
    low: float,
    high: float,
    bounds: IntegerRange,
    tried: Iterable[tuple[int, int]],
) -> tuple[int, int]:
    def loss(percent: tuple[int, int]) -> float:
        return _loss(values, *_clipped_range(low, high, percent, bounds), bounds)

    return min(tried, key=loss)


def _loss(values: Tensor, scale: float, zero_point: int, bounds: IntegerRange) -> float:
    q = torch.clamp(torch.round(values / scale) + zero_point, bounds.qmin, bounds.qmax)
    error = (q - zero_point).mul_(scale).sub_(values).abs_()
    return float(error.pow_(EXPONENT).mean())


def extreme_range(values: Tensor, bounds: IntegerRange, symmetric: bool) -> tuple[float, int]:
    """Scale and zero point that clip no value; arguments as in ``search_act_range``.

    Raises:
        DivergenceError: a value is NaN or infinite.
    """
    low, high = _extremes(values)
    if low == high:
        return 1.0 / bounds.qmax, 0
    return whole_range(low, high, bounds, symmetric)


def _extremes(values: Tensor) -> tuple[float, float]:
    """Smallest and largest value, 0 among them."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DivergenceError(
            "activations must be finite",
            f"values from {low} to {high} while calibrating",
            "check the weights of the network and --mean and --std",
        )
    return low, high


def full_scale(low: float, high: float, bounds: IntegerRange) -> float:
    """Scale with zero point 0 that reaches ``low`` (0 or less) and ``high`` (0 or more)."""
    return max(high / bounds.qmax, low / bounds.qmin if bounds.qmin < 0 else 0.0, MIN_SCALE)


def whole_range(
    low: float, high: float, bounds: IntegerRange, symmetric: bool
) -> tuple[float, int]:
    """Scale and zero point that clip nothing of ``low..high``, which is widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric or low == 0.0:
        return full_scale(low, high, bounds), 0
    return _clipped_range(low, high, (100, 100), bounds)


def _clipped_range(
    low: float, high: float, percent: tuple[int, int], bounds: IntegerRange
) -> tuple[float, int]:
    """``percent`` of each side of ``low..high``; 0 stays exactly representable."""
    below, above = low * percent[0] / 100, high * percent[1] / 100
    scale = max((above - below) / (bounds.levels - 1), MIN_SCALE)
    zero_point = bounds.qmin + round(-below / scale)
    return scale, min(max(zero_point, bounds.qmin), bounds.qmax)
