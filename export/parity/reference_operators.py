"""What each ATen operator of a student does to numbers, in numpy and nothing else.

The kernels follow the type of their input: integers in, integers out, where values only move.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from lrq_deploy.export.parity.reference_movements import adaptive_pool, pair

__all__ = ["FLOAT_OPERATORS", "SIZE_OPERATORS"]

Array = NDArray[Any]

_erf = np.frompyfunc(math.erf, 1, 1)

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934
"""Klambauer et al. 2017, "Self-Normalizing Neural Networks", arXiv 1706.02515."""


def _sigmoid(x: Array) -> Array:
    # The exponent is never positive, so it cannot overflow.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    scaled = x * beta
    curve = np.log1p(np.exp(np.minimum(scaled, threshold))) / beta
    return np.where(scaled > threshold, x, curve)


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        curve = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        curve = np.asarray(_erf(x / math.sqrt(2.0)), np.float64)
    return np.asarray(0.5 * x * (1 + curve))


def _elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) * input_scale))


def _prelu(x: Array, weight: Array) -> Array:
    slope = weight if weight.size == 1 else weight.reshape(1, -1, *[1] * (x.ndim - 2))
    return np.where(x > 0, x, x * slope)


def _clamp(x: Array, low: float | None = None, high: float | None = None) -> Array:
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _mean(
    x: Array, axes: Sequence[int] | None = None, keepdim: bool = False, dtype: object = None
) -> Array:
    mean: Array = np.mean(x, axis=tuple(axes) if axes else None, keepdims=keepdim)
    return mean


def _total(x: Array, axes: Sequence[int], keepdim: bool = False, dtype: object = None) -> Array:
    total: Array = np.sum(x, axis=tuple(axes), keepdims=keepdim)
    return total


def _adaptive_average(x: Array, size: int | Sequence[int]) -> Array:
    return adaptive_pool(x, size, np.mean)


def _average_pool(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Array:
    size, pad = pair(kernel), pair(padding)
    step = pair(stride) if stride else size
    counted = np.ones(x.shape[-2:], np.float64)
    sides = [(p, p) for p in pad]
    values = np.pad(x, [*[(0, 0)] * (x.ndim - 2), *sides])
    counted = np.pad(counted, sides, constant_values=1.0 if count_include_pad else 0.0)
    if ceil_mode:
        # Windows may hang over the end; those positions are never counted.
        extra = [
            (0, _overhang(n, k, s)) for n, k, s in zip(values.shape[-2:], size, step, strict=True)
        ]
        values = np.pad(values, [*[(0, 0)] * (x.ndim - 2), *extra])
        counted = np.pad(counted, extra)
    total, share = (_windows(part, size, step).sum((-2, -1)) for part in (values, counted))
    if ceil_mode:
        # A window of nothing but padding counts no position; there is none without ceil_mode.
        rows, columns = (
            _ceil_count(n, k, s, p)
            for n, k, s, p in zip(x.shape[-2:], size, step, pad, strict=True)
        )
        total, share = (part[..., :rows, :columns] for part in (total, share))
    return np.asarray(total / (share if divisor is None else divisor))


def _average_pool_1d(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    pad: Sequence[int] = (0,),
    *how: bool,
) -> Array:
    step = (1, *stride) if stride else ()
    row = _average_pool(x[..., None, :], (1, *kernel), step, (0, *pad), *how)
    return np.asarray(row[..., 0, :])


def _overhang(length: int, kernel: int, stride: int) -> int:
    return -(length - kernel) % stride


def _ceil_count(length: int, kernel: int, stride: int, padding: int) -> int:
    """Outputs with ``ceil_mode``: the last window must begin inside the input or its front pad."""
    count = -(-(length + 2 * padding - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= length + padding else count


def _windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int]) -> Array:
    view: Array = sliding_window_view(x, kernel, axis=(-2, -1))
    return view[..., :: stride[0], :: stride[1], :, :]


def _add(x: Array, y: Any, alpha: float = 1) -> Array:
    return np.asarray(x + alpha * y)


def _sub(x: Array, y: Any, alpha: float = 1) -> Array:
    return np.asarray(x - alpha * y)


def _hardsigmoid(x: Array) -> Array:
    return _clamp(x + 3, 0, 6) / 6


def _index(x: Array, indices: Sequence[Array | None]) -> Array:
    taken: Array = x[tuple(slice(None) if index is None else index for index in indices)]
    return taken


def _addcmul(x: Array, left: Array, right: Array, value: float = 1) -> Array:
    return np.asarray(x + value * left * right)


def _kind(dtype: object) -> str:
    """Reals are float64 here, whatever they are in torch."""
    name = str(dtype).removeprefix("torch.")
    return "float64" if dtype is None or "float" in name else name


def _cast(x: Array, dtype: object = None, **rest: object) -> Array:
    return x if dtype is None else x.astype(_kind(dtype))


def _zeros(size: Sequence[int], dtype: object = None, **rest: object) -> Array:
    return np.zeros(tuple(size), _kind(dtype))


def _slice_scatter(
    x: Array,
    source: Array,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Array:
    written = x.copy()
    cut: list[Any] = [slice(None)] * x.ndim
    cut[axis] = slice(start, end, step)
    written[tuple(cut)] = source
    return written


_COMPARISONS = {
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "ne": np.not_equal,
}

FLOAT_OPERATORS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.Scalar": kernel for name, kernel in _COMPARISONS.items()},
    **{f"aten.{name}.Tensor": kernel for name, kernel in _COMPARISONS.items()},
    "aten._adaptive_avg_pool2d.default": _adaptive_average,
    "aten._to_copy.default": _cast,
    "aten.abs.default": np.abs,
    "aten.adaptive_avg_pool2d.default": _adaptive_average,
    "aten.add.Tensor": _add,
    "aten.add.Scalar": _add,
    "aten.addcmul.default": _addcmul,
    "aten.any.dim": lambda x, axis, keepdim=False: x.any(axis, keepdims=keepdim),
    "aten.avg_pool1d.default": _average_pool_1d,
    "aten.avg_pool2d.default": _average_pool,
    "aten.bitwise_not.default": np.invert,
    "aten.celu.default": lambda x, alpha=1.0: _elu(x, alpha, 1.0, 1 / alpha),
    "aten.clamp.default": _clamp,
    "aten.clamp_max.default": lambda x, high: np.minimum(x, high),
    "aten.clamp_min.default": lambda x, low: np.maximum(x, low),
    "aten.copy.default": lambda x, source, block=False: np.broadcast_to(source, x.shape),
    "aten.cos.default": np.cos,
    "aten.cumsum.default": lambda x, axis, dtype=None: _cast(x, dtype).cumsum(axis),
    "aten.div.Scalar": lambda x, y: x / y,
    "aten.div.Tensor": lambda x, y: x / y,
    "aten.elu.default": _elu,
    "aten.erf.default": lambda x: np.asarray(_erf(x), np.float64),
    "aten.exp.default": np.exp,
    "aten.expm1.default": np.expm1,
    "aten.fill.Scalar": np.full_like,
    "aten.full_like.default": lambda x, value, **rest: np.full_like(x, value),
    "aten.gelu.default": _gelu,
    "aten.hardsigmoid.default": _hardsigmoid,
    "aten.hardswish.default": lambda x: x * _hardsigmoid(x),
    "aten.hardtanh.default": lambda x, low=-1.0, high=1.0: _clamp(x, low, high),
    "aten.index.Tensor": _index,
    "aten.leaky_relu.default": lambda x, slope=0.01: np.where(x > 0, x, x * slope),
    "aten.log.default": np.log,
    "aten.log1p.default": np.log1p,
    "aten.log_sigmoid.default": lambda x: -_softplus(-x),
    "aten.logical_and.default": np.logical_and,
    "aten.logical_not.default": np.logical_not,
    "aten.logical_or.default": np.logical_or,
    "aten.masked_fill.Scalar": lambda x, mask, value: np.where(mask, value, x),
    "aten.maximum.default": np.maximum,
    "aten.mean.dim": _mean,
    "aten.minimum.default": np.minimum,
    "aten.mish.default": lambda x: x * np.tanh(_softplus(x)),
    "aten.mul.Tensor": lambda x, y: x * y,
    "aten.mul.Scalar": lambda x, y: x * y,
    "aten.neg.default": np.negative,
    "aten.new_zeros.default": lambda x, size, **rest: _zeros(size, **rest),
    "aten.pow.Tensor_Scalar": np.power,
    "aten.pow.Tensor_Tensor": np.power,
    "aten.prelu.default": _prelu,
    "aten.reciprocal.default": lambda x: 1 / x,
    "aten.relu.default": lambda x: np.maximum(x, 0),
    "aten.relu6.default": lambda x: _clamp(x, 0, 6),
    "aten.rsqrt.default": lambda x: 1 / np.sqrt(x),
    "aten.rsub.Scalar": lambda x, y, alpha=1: y - alpha * x,
    "aten.selu.default": lambda x: _elu(x, _SELU_ALPHA, _SELU_SCALE),
    "aten.sigmoid.default": _sigmoid,
    "aten.sign.default": np.sign,
    "aten.silu.default": lambda x: x * _sigmoid(x),
    "aten.sin.default": np.sin,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.softplus.default": _softplus,
    "aten.sqrt.default": np.sqrt,
    "aten.square.default": np.square,
    "aten.sub.Scalar": _sub,
    "aten.sub.Tensor": _sub,
    "aten.sum.dim_IntList": _total,
    "aten.tanh.default": np.tanh,
    "aten.threshold.default": lambda x, limit, other: np.where(x > limit, x, other),
    "aten.where.self": np.where,
    "aten.zeros.default": _zeros,
}
"""Operators that make new values; they are evaluated on reals, as those of ``SUMS_OF_REALS``."""

SIZE_OPERATORS: dict[object, Callable[..., Any]] = {
    "aten.sym_size.int": lambda x, axis: x.shape[axis],
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.floordiv: operator.floordiv,
}
"""Arithmetic of sizes."""
