"""What the ATen operators of a student that add many reals do, in numpy and nothing else.

No two orders of such sums agree to the last bit, so a network that has one is held to other bounds
(``bounds.as_close_as``).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SUMS_OF_REALS"]

Array = NDArray[Any]

_CUBIC = -0.75
"""Slope of torch's and ONNX's cubic kernel (Keys 1981, "Cubic convolution interpolation")."""


def _softmax(x: Array, axis: int, dtype: object = None) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis; the largest power is 1, so that none overflows."""
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """``softmax(query key^T scale + mask) value`` (Vaswani et al. 2017, arXiv 1706.03762).

    ``query [..., L, E]``, ``key [..., S, E]``, ``value [..., S, V]``, ``mask [..., L, S]``. False
    in a mask of truth values hides a key; where all are hidden the result is 0, as torch has it.
    A frozen network drops nothing out.
    """
    if enable_gqa:
        key, value = (x.repeat(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.swapaxes(-1, -2)
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        mask = np.tri(*scores.shape[-2:], dtype=bool)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    blind = np.isneginf(scores.max(-1, keepdims=True))
    shares = np.where(blind, 0.0, _softmax(np.where(blind, 0.0, scores), -1))
    return np.asarray(shares @ value)


def _standardised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """``(x - mean) / sqrt(variance + eps)`` over ``axes``, the variance divided by the count."""
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + eps))


def _affine(x: Array, weight: Array | None, bias: Array | None, axis: int | None = None) -> Array:
    """Times ``weight`` plus ``bias``, which lie along ``axis``, or else along the last ones."""
    for apply, operand in ((np.multiply, weight), (np.add, bias)):
        if operand is not None:
            along = operand if axis is None else operand.reshape(-1, *[1] * (x.ndim - 1 - axis))
            x = apply(x, along)
    return x


def _layer_norm(
    x: Array,
    shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Array:
    """Over the last axes, of ``shape`` (Ba et al. 2016, arXiv 1607.06450)."""
    return _affine(_standardised(x, tuple(range(-len(shape), 0)), eps), weight, bias)


def _native_layer_norm(x: Array, *how: Any) -> list[Array]:
    """Only the first of its three results is read in a student."""
    return [_layer_norm(x, *how)]


def _native_group_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    count: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> list[Array]:
    return [_group_norm(x, groups, weight, bias, eps)]


def _group_norm(
    x: Array,
    groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Array:
    """Over ``C / groups`` channels of ``[N, C, ...]`` (Wu and He 2018, arXiv 1803.08494)."""
    parts = _standardised(x.reshape(len(x), groups, -1), (2,), eps)
    return _affine(parts.reshape(x.shape), weight, bias, axis=1)


def _instance_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array | None,
    variance: Array | None,
    own: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Array:
    """By each map's statistics (``own``; Ulyanov et al. 2016, arXiv 1607.08022) or stored ones.

    ``x [N, C, ...]``, the others ``[C]``.
    """
    if own or mean is None or variance is None:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    scale = 1 / np.sqrt(variance.astype(np.float64) + eps)
    return _affine(_affine(x, scale, -mean * scale, axis=1), weight, bias, axis=1)


def _rms_norm(
    x: Array, shape: Sequence[int], weight: Array | None = None, eps: float | None = None
) -> Array:
    """``x / sqrt(mean(x^2) + eps)`` over the last axes (Zhang and Sennrich 2019, 1910.07467)."""
    axes = tuple(range(-len(shape), 0))
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    root = np.sqrt(np.square(x).mean(axes, keepdims=True) + eps)
    return _affine(x / root, weight, None)


def _vector_norm(
    x: Array,
    order: float = 2,
    axes: Sequence[int] | None = None,
    keepdim: bool = False,
    dtype: object = None,
) -> Array:
    """``sum(|x|^order)^(1 / order)``; the largest, the smallest, the count of others than 0."""
    along = None if axes is None else tuple(axes)
    size = np.abs(x)
    if math.isinf(order):
        return np.asarray((np.max if order > 0 else np.min)(size, along, keepdims=keepdim))
    if order == 0:
        return np.asarray(np.count_nonzero(size, along, keepdims=keepdim).astype(x.dtype))
    return np.asarray(np.power(size, order).sum(along, keepdims=keepdim) ** (1 / order))


class _Taps(Protocol):
    """Neighbours of a position: ``fraction`` past one of them gives offsets and weights."""

    def __call__(self, fraction: Array) -> Iterator[tuple[int, Array]]: ...


def _linear_taps(fraction: Array) -> Iterator[tuple[int, Array]]:
    yield 0, 1 - fraction
    yield 1, fraction


def _cubic_taps(fraction: Array) -> Iterator[tuple[int, Array]]:
    for offset in (-1, 0, 1, 2):
        d = np.abs(fraction - offset)
        near = ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * _CUBIC - 4 * _CUBIC
        yield offset, np.where(d <= 1, near, far)


def _resampling(length: int, count: int, step: float, aligned: bool, taps: _Taps) -> Array:
    """``[count, length]``: what each new position takes of each old one.

    Position ``i`` lies at ``(i + 0.5) step - 0.5``, or with its corners ``aligned`` at ``i (length
    - 1) / (count - 1)``, as ONNX's Resize states ``half_pixel`` and ``align_corners``.
    """
    places = np.arange(count)
    if aligned:
        source = places * ((length - 1) / (count - 1) if count > 1 else 0.0)
    else:
        source = (places + 0.5) * step - 0.5
        source = np.maximum(source, 0) if taps is _linear_taps else source
    whole = np.floor(source)
    matrix = np.zeros((count, length))
    for offset, weight in taps(source - whole):
        at = np.clip(whole.astype(int) + offset, 0, length - 1)
        np.add.at(matrix, (places, at), weight)
    return matrix


def _resized(taps: _Taps) -> Callable[..., Array]:
    """Interpolation of the last two axes, which are resampled one by one."""

    def resize(
        x: Array, size: Sequence[int] | None, aligned: bool, factors: Sequence[float] | None
    ) -> Array:
        high, wide = x.shape[-2:]
        if size is None:
            size = [int(n * f) for n, f in zip((high, wide), factors or (), strict=True)]
            steps = [1 / f for f in factors or ()]
        else:
            steps = [high / size[0], wide / size[1]]
        rows = _resampling(high, size[0], steps[0], aligned, taps)
        columns = _resampling(wide, size[1], steps[1], aligned, taps)
        return np.asarray(rows @ (x @ columns.T))

    return resize


SUMS_OF_REALS: dict[str, Callable[..., Any]] = {
    "aten._softmax.default": _softmax,
    "aten.bmm.default": np.matmul,
    "aten.einsum.default": lambda equation, operands, path=None: np.einsum(equation, *operands),
    "aten.group_norm.default": _group_norm,
    "aten.instance_norm.default": _instance_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.linalg_vector_norm.default": _vector_norm,
    "aten.matmul.default": np.matmul,
    "aten.mm.default": np.matmul,
    "aten.native_group_norm.default": _native_group_norm,
    "aten.native_layer_norm.default": _native_layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.softmax.int": _softmax,
    "aten.upsample_bicubic2d.vec": _resized(_cubic_taps),
    "aten.upsample_bilinear2d.vec": _resized(_linear_taps),
}
"""Operators that add many reals, whose order moves the last bits."""
