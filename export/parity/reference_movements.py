"""Operators that move values without changing them, in numpy, for integers and reals alike."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["MOVEMENTS", "adaptive_pool", "pair"]

Array = NDArray[Any]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """``(height, width)`` of an argument that may state one number for both."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _slice(
    x: Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    cut: list[Any] = [slice(None)] * x.ndim
    cut[axis] = slice(start, end, step)
    part: Array = x[tuple(cut)]
    return part


def _flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _unflatten(x: Array, axis: int, sizes: Sequence[int]) -> Array:
    axis %= x.ndim
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def _squeeze(x: Array, axes: int | Sequence[int] | None = None) -> Array:
    candidates = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    return np.squeeze(x, tuple(a % x.ndim for a in candidates if x.shape[a] == 1))


def _split(x: Array, size: int | Sequence[int], axis: int = 0) -> list[Array]:
    if isinstance(size, int):
        return np.split(x, range(size, x.shape[axis], size), axis)
    return np.split(x, np.cumsum(size)[:-1], axis)


def _chunk(x: Array, count: int, axis: int = 0) -> list[Array]:
    return _split(x, -(-x.shape[axis] // count), axis)


def _unbind(x: Array, axis: int = 0) -> list[Array]:
    return [x.take(index, axis) for index in range(x.shape[axis])]


def _sides(x: Array, pads: Sequence[int]) -> list[tuple[int, int]]:
    """Torch states pads from the last axis forwards; numpy from the first."""
    ends = list(zip(pads[::2], pads[1::2], strict=True))[::-1]
    return [*[(0, 0)] * (x.ndim - len(ends)), *ends]


def _pad(
    x: Array, pads: Sequence[int], mode: str = "constant", value: float | None = None
) -> Array:
    sides = _sides(x, pads)
    # A negative pad cuts.
    for axis, (before, behind) in enumerate(sides):
        x = _slice(x, axis, max(-before, 0), x.shape[axis] - max(-behind, 0))
    grown = [(max(before, 0), max(behind, 0)) for before, behind in sides]
    if mode == "constant":
        return np.pad(x, grown, constant_values=value or 0)
    modes: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return np.pad(x, grown, mode=modes[mode])


def _constant_pad(x: Array, pads: Sequence[int], value: float = 0) -> Array:
    return _pad(x, pads, "constant", value)


def _max_pool(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    size, pad, spread = pair(kernel), pair(padding), pair(dilation)
    step = pair(stride) if stride else size
    lowest = np.iinfo(x.dtype).min if x.dtype.kind == "i" else -np.inf
    for axis in (0, 1):
        place = x.ndim - 2 + axis
        length, reach = x.shape[place], spread[axis] * (size[axis] - 1) + 1
        room = length + 2 * pad[axis] - reach
        count = (-(-room // step[axis]) if ceil_mode else room // step[axis]) + 1
        if ceil_mode and (count - 1) * step[axis] >= length + pad[axis]:
            count -= 1
        behind = max((count - 1) * step[axis] + reach - length - pad[axis], 0)
        sides = [(0, 0)] * x.ndim
        sides[place] = (pad[axis], behind)
        windows = sliding_window_view(np.pad(x, sides, constant_values=lowest), reach, place)
        taken = _slice(windows, place, 0, None, step[axis])
        x = _slice(taken[..., :: spread[axis]].max(-1), place, 0, count)
    return x


def adaptive_pool(x: Array, size: int | Sequence[int], pooled: Callable[..., Array]) -> Array:
    """Bin i covers ``floor(i n / m) .. ceil((i + 1) n / m)`` of n positions."""
    for axis, count in zip((-2, -1), pair(size), strict=True):
        length = x.shape[axis]
        bins = [
            pooled(
                x.take(range(i * length // count, -(-(i + 1) * length // count)), axis),
                axis,
                keepdims=True,
            )
            for i in range(count)
        ]
        x = np.concatenate(bins, axis)
    return x


def _adaptive_max(x: Array, size: int | Sequence[int]) -> list[Array]:
    return [adaptive_pool(x, size, np.max)]


def _maximum(x: Array, axes: Sequence[int] = (), keepdim: bool = False) -> Array:
    largest: Array = x.max(tuple(axes) if axes else None, keepdims=keepdim)
    return largest


def _pixel_shuffle(x: Array, factor: int) -> Array:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c // factor**2, factor, factor, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // factor**2, h * factor, w * factor)


def _pixel_unshuffle(x: Array, factor: int) -> Array:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // factor, factor, w // factor, factor).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(n, c * factor**2, h // factor, w // factor)


def _channel_shuffle(x: Array, groups: int) -> Array:
    n, c, *rest = x.shape
    return x.reshape(n, groups, c // groups, *rest).swapaxes(1, 2).reshape(x.shape)


def _upsample(x: Array, size: Sequence[int] | None, factors: Sequence[float] | None) -> Array:
    """Output i reads input ``floor(i * step)``, the step in float32 as torch has it."""
    for index, place in enumerate((-2, -1)):
        length = x.shape[place]
        if factors is not None:
            count = math.floor(length * factors[index])
            step = np.float32(1.0 / factors[index])
        else:
            count = size[index] if size is not None else length
            step = np.float32(length) / np.float32(count)
        reads = np.floor(np.arange(count, dtype=np.float32) * step).astype(np.int64)
        x = x.take(np.minimum(reads, length - 1), place)
    return x


def _upsample_to(
    x: Array, size: Sequence[int], high: float | None = None, wide: float | None = None
) -> Array:
    factors = None if high is None or wide is None else (high, wide)
    return _upsample(x, None if factors else size, factors)


def _expand(x: Array, sizes: Sequence[int], implicit: bool = False) -> Array:
    grown = x.reshape(*[1] * (len(sizes) - x.ndim), *x.shape)
    shape = [old if new == -1 else new for old, new in zip(grown.shape, sizes, strict=True)]
    return np.broadcast_to(grown, shape)


def _unfold(x: Array, axis: int, size: int, step: int) -> Array:
    axis %= x.ndim
    windows = sliding_window_view(x, size, axis=axis)
    return windows[(*[slice(None)] * axis, slice(None, None, step))]


def _same(x: Array, *rest: object, **options: object) -> Array:
    return x


def _reshape(x: Array, sizes: Sequence[int]) -> Array:
    return x.reshape(tuple(sizes))


MOVEMENTS: dict[object, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    "aten._unsafe_view.default": _reshape,
    "aten.adaptive_max_pool2d.default": _adaptive_max,
    "aten.alias.default": _same,
    "aten.amax.default": _maximum,
    "aten.channel_shuffle.default": _channel_shuffle,
    "aten.chunk.default": _chunk,
    "aten.clone.default": _same,
    "aten.constant_pad_nd.default": _constant_pad,
    "aten.contiguous.default": _same,
    "aten.detach.default": _same,
    "aten.dropout.default": _same,
    "aten.expand.default": _expand,
    "aten.flatten.using_ints": _flatten,
    "aten.flip.default": np.flip,
    "aten.index_select.default": lambda x, axis, index: x.take(index, axis),
    "aten.max_pool2d.default": _max_pool,
    "aten.max_pool2d_with_indices.default": lambda x, *how: [_max_pool(x, *how)],
    "aten.pad.default": _pad,
    "aten.permute.default": lambda x, axes: x.transpose(axes),
    "aten.pixel_shuffle.default": _pixel_shuffle,
    "aten.pixel_unshuffle.default": _pixel_unshuffle,
    "aten.reflection_pad2d.default": lambda x, pads: _pad(x, pads, "reflect"),
    "aten.replication_pad2d.default": lambda x, pads: _pad(x, pads, "replicate"),
    "aten.repeat.default": np.tile,
    "aten.repeat_interleave.self_int": lambda x, times, axis=None: x.repeat(times, axis),
    "aten.reshape.default": _reshape,
    "aten.select.int": lambda x, axis, index: x.take(index, axis),
    "aten.slice.Tensor": _slice,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.squeeze.default": _squeeze,
    "aten.squeeze.dim": _squeeze,
    "aten.squeeze.dims": _squeeze,
    "aten.transpose.int": np.swapaxes,
    "aten.type_as.default": _same,
    "aten.unbind.int": _unbind,
    "aten.unflatten.int": _unflatten,
    "aten.unfold.default": _unfold,
    "aten.unsqueeze.default": np.expand_dims,
    "aten.upsample_nearest2d.default": _upsample_to,
    "aten.upsample_nearest2d.vec": _upsample,
    "aten.view.default": _reshape,
}
"""Operators whose output holds only values of their input, or zeros."""
