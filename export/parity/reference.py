"""The student once more, in numpy: integer layers with integer accumulators, no torch kernel.

Slow and exact. A tensor is its centred integers ``q - zero_point`` and one scale wherever the
student has a quantizer, and stays so through data movement; between a layer and the next
quantizer it is float64. It shares no arithmetic with ``simulation``, which it checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, fx

from lrq_deploy.errors import ExportError
from lrq_deploy.export.parity.reference_movements import MOVEMENTS
from lrq_deploy.export.parity.reference_operators import FLOAT_OPERATORS, SIZE_OPERATORS
from lrq_deploy.export.parity.reference_sums import SUMS_OF_REALS
from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import QParams
from lrq_deploy.student.frozen import (
    FloatLayer,
    FrozenLayer,
    FrozenQuantizer,
    QuantizedModel,
)
from lrq_deploy.student.weight_only import WeightOnlyLayer

__all__ = [
    "IntegerTensor",
    "Reference",
    "UnknownOperatorError",
    "call_labels",
    "float_operator",
    "integer_convolution",
    "reference_logits",
]

Array = NDArray[Any]
Integers = NDArray[np.signedinteger[Any]]

_INT32_LIMIT = 2**31
_CONCATENATIONS = ("aten.cat.default", "aten.concat.default")
_PADS = ("aten.constant_pad_nd.default", "aten.pad.default")


class UnknownOperatorError(ExportError):
    """The reference does not know an operator of the student."""


@dataclass(frozen=True)
class IntegerTensor:
    """A tensor on a grid: ``real = scale * integers``.

    Attributes:
        integers: centred, ``q - zero_point``, int64.
        scale: > 0, the float32 number of the scale table.
    """

    integers: Integers
    scale: float

    @property
    def real(self) -> Array:
        """float64."""
        return self.integers * self.scale


def reference_logits(model: QuantizedModel, images: Tensor) -> NDArray[np.float32]:
    """Logits ``[N, classes]`` of normalised images ``[N, C, H, W]``.

    Raises:
        UnknownOperatorError: the reference does not know an operator of the graph.
    """
    reference = Reference(model)
    rows = [reference.run(image[None]) for image in images.detach().cpu().numpy()]
    return np.concatenate(rows).astype(np.float32)


class Reference:
    """Executes a student; ``trace`` holds the centred integers of every quantizer call.

    Args:
        model: the student.
    """

    def __init__(self, model: QuantizedModel) -> None:
        self._model = model
        self._labels = call_labels(model)
        self.trace: dict[str, Integers] = {}

    def run(self, images: NDArray[np.float32]) -> Array:
        """Logits float64 ``[N, classes]`` of normalised images float32.

        Raises:
            UnknownOperatorError: the reference does not know an operator of the graph.
        """
        self.trace = {}
        values: dict[fx.Node, Any] = {}
        for node in self._model.graph.graph.nodes:
            if node.op == "output":
                return np.asarray(_real(fx.map_arg(node.args[0], values.__getitem__)))
            values[node] = images if node.op == "placeholder" else self._node(node, values)
        raise ExportError("a student must have an output", "none", "get the bundle again")

    def _node(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        args = fx.map_arg(node.args, values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_function":
            return _call(node.target, args, kwargs)
        if node.op == "get_attr":
            return tensor_of(self._model.graph, node).numpy()
        module = self._model.graph.get_submodule(str(node.target))
        if isinstance(module, FrozenQuantizer):
            result = _quantize(module.qparams, _real(args[0]))
            self.trace[self._labels[node]] = result.integers
            return result
        if isinstance(module, FrozenLayer):
            return _layer(module, args[0], self._model.table[module.input_quantizer])
        if isinstance(module, FloatLayer):
            return _float_layer(module, _real(args[0]))
        if isinstance(module, WeightOnlyLayer):
            product = _real(args[0]) @ module.real_weight(torch.float64).numpy().T
            return product if module.bias is None else product + module.bias.numpy()
        raise _unknown(type(module).__name__)


def float_operator(model: QuantizedModel) -> str | None:
    """The first operator of a student that sums products of floats, or None.

    No two orders of such sums agree to the last bit (attention, LayerNorm); what this reference
    does not know counts as one of them.
    """
    for node in model.graph.graph.nodes:
        if node.op == "call_function" and not _is_exact(node.target):
            return str(node.target)
    return None


def call_labels(model: QuantizedModel) -> dict[fx.Node, str]:
    """A name for each call of a quantizer: ``NAME``, ``NAME.1``, ... as the graphs have them."""
    calls: dict[str, int] = {}
    labels: dict[fx.Node, str] = {}
    quantizers = model.quantizers()
    for node in model.graph.graph.nodes:
        name = str(node.target)
        if node.op == "call_module" and name in quantizers:
            number = calls.get(name, 0)
            calls[name] = number + 1
            labels[node] = f"{name}.{number}" if number else name
    return labels


def _real(value: Any) -> Any:
    """The value with every integer tensor in it as reals."""
    if isinstance(value, IntegerTensor):
        return value.real
    if isinstance(value, tuple | list):
        return type(value)(_real(v) for v in value)
    return value


def _key(target: object) -> object:
    """As the tables have it: Python's own functions as they are, ATen operators by name."""
    return target if target in SIZE_OPERATORS or target in MOVEMENTS else str(target)


def _is_exact(target: object) -> bool:
    return _key(target) in {*SIZE_OPERATORS, *MOVEMENTS, *FLOAT_OPERATORS, *_CONCATENATIONS}


def _call(target: object, args: Any, kwargs: Mapping[str, Any]) -> Any:
    key = _key(target)
    if key in SIZE_OPERATORS:
        shapes = [a.integers if isinstance(a, IntegerTensor) else a for a in args]
        return SIZE_OPERATORS[key](*shapes, **kwargs)
    if key in _CONCATENATIONS:
        return _concatenate(*args, **kwargs)
    if key in MOVEMENTS:
        return _move(key, args, kwargs)
    kernel = FLOAT_OPERATORS.get(str(key)) or SUMS_OF_REALS.get(str(key))
    if kernel is not None:
        return kernel(*_real(args), **{name: _real(value) for name, value in kwargs.items()})
    raise _unknown(str(key))


def _move(key: object, args: Any, kwargs: Mapping[str, Any]) -> Any:
    kernel, source = MOVEMENTS[key], args[0]
    # A pad with another number than 0 need not lie on the grid.
    filled = key in _PADS and any(isinstance(a, int | float) and a != 0 for a in args[2:])
    if not isinstance(source, IntegerTensor) or filled:
        return kernel(*_real(args), **kwargs)
    moved = kernel(source.integers, *args[1:], **kwargs)
    if isinstance(moved, list):
        return [IntegerTensor(part, source.scale) for part in moved]
    return IntegerTensor(moved, source.scale)


def _concatenate(parts: list[Any], axis: int = 0) -> Any:
    scales = {part.scale for part in parts if isinstance(part, IntegerTensor)}
    if len(scales) == 1 and all(isinstance(part, IntegerTensor) for part in parts):
        return IntegerTensor(np.concatenate([p.integers for p in parts], axis), scales.pop())
    return np.concatenate(_real(parts), axis)


def _quantize(qparams: QParams, x: Array) -> IntegerTensor:
    """``clip(round_half_even(x / scale) + zero_point, qmin, qmax) - zero_point``."""
    zero_point = int(qparams.zero_point)
    # An image arrives as float32, and a runtime divides it in float32.
    steps = np.rint(x / np.asarray(float(qparams.scale), x.dtype)).astype(np.float64)
    q = np.clip(steps + zero_point, qparams.qmin, qparams.qmax)
    return IntegerTensor(q.astype(np.int64) - zero_point, float(qparams.scale))


def _layer(layer: FrozenLayer, x: Any, source: QParams) -> Array:
    scale_x = float(source.scale)
    if isinstance(x, IntegerTensor) and x.scale == scale_x:
        integers = x.integers
    else:
        integers = np.rint(_real(x) / scale_x).astype(np.int64)
    weight = layer.weight_q.numpy().astype(np.int64)
    step = scale_x * layer.weight_scale.numpy().astype(np.float64)
    linear = layer.spec.kind == "linear"
    apply = _matrix_product if linear else integer_convolution
    total = apply(integers, weight, layer.spec).astype(np.int64)
    channels = total.shape[-1 if linear else 1]
    step = np.tile(step, channels // step.size)
    shape = [1] * total.ndim
    shape[-1 if linear else 1] = -1
    if layer.bias is not None:
        bias = np.rint(layer.bias.numpy().astype(np.float64) / step).astype(np.int64)
        total = total + bias.reshape(shape)
    return np.asarray(total * step.reshape(shape))


def _float_layer(layer: FloatLayer, x: Array) -> Array:
    """A convolution in float64."""
    padded = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in layer.spec.padding]])
    weight = layer.stored_weight.numpy().astype(np.float64)
    total = _convolve(padded, weight, layer.spec.stride, layer.spec.dilation, layer.spec.groups)
    return total if layer.bias is None else total + layer.bias.numpy().reshape(1, -1, 1, 1)


def _accumulator(x: Integers, weight: Integers, axis: int) -> type[np.int32] | type[np.int64]:
    """int32 where no partial sum can leave it, else int64."""
    rows = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).sum(1)
    bound = int(rows.max(initial=0)) * int(np.abs(x).max(initial=0))
    return np.int32 if bound < _INT32_LIMIT else np.int64


def _matrix_product(x: Integers, weight: Integers, spec: LayerSpec) -> Integers:
    kind = _accumulator(x, weight, 0)
    rows = x.reshape(-1, x.shape[-1]).astype(kind)
    return _products(rows, weight.astype(kind)).reshape(*x.shape[:-1], len(weight))


def _products(rows: Array, weight: Array) -> Array:
    """``rows @ weight.T``; numpy multiplies integers a third as fast by that."""
    if np.issubdtype(rows.dtype, np.integer):
        return np.asarray(np.einsum("ij,kj->ik", rows, weight))
    return np.asarray(rows @ weight.T)


def integer_convolution(x: Integers, weight: Integers, spec: LayerSpec) -> Integers:
    """Sums of products ``[N, C_out, H', W']`` of integers ``[N, C, H, W]``, without bias.

    A transposed convolution is a convolution of the input spread by its stride with the
    flipped kernel (Dumoulin and Visin 2016, arXiv 1603.07285, section 4).
    """
    kind = _accumulator(x, weight, spec.channel_axis)
    x, weight = x.astype(kind), weight.astype(kind)
    if spec.kind == "conv_transpose2d":
        return _transposed(x, weight, spec)
    padded = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in spec.padding]])
    return _convolve(padded, weight, spec.stride, spec.dilation, spec.groups)


def _transposed(x: Integers, weight: Integers, spec: LayerSpec) -> Integers:
    n, c, *sides = x.shape
    spread = [(side - 1) * s + 1 for side, s in zip(sides, spec.stride, strict=True)]
    reach = [d * (k - 1) for d, k in zip(spec.dilation, weight.shape[2:], strict=True)]
    # Room for every tap; the padding is cut from the full result.
    room = [(r, r + o) for r, o in zip(reach, spec.output_padding, strict=True)]
    wide = np.zeros((n, c, *spread), x.dtype)
    wide[:, :, :: spec.stride[0], :: spec.stride[1]] = x
    wide = np.pad(wide, [(0, 0), (0, 0), *room])
    per_group = weight.reshape(spec.groups, c // spec.groups, *weight.shape[1:])
    flipped = per_group.swapaxes(1, 2)[..., ::-1, ::-1]
    kernel = flipped.reshape(-1, c // spec.groups, *weight.shape[2:])
    full = _convolve(wide, kernel, (1, 1), spec.dilation, spec.groups)
    (top, left), (high, width) = spec.padding, full.shape[2:]
    return full[:, :, top : high - top, left : width - left]


def _convolve(
    x: Array,
    weight: Array,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Array:
    kernel = weight.shape[2:]
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    windows = sliding_window_view(x, reach, axis=(2, 3))
    taps = windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    n, _, high, wide = taps.shape[:4]
    columns = weight[0].size
    outputs = []
    for part, rows in zip(np.split(taps, groups, 1), np.split(weight, groups), strict=True):
        matrix = part.transpose(0, 2, 3, 1, 4, 5).reshape(n * high * wide, columns)
        product = _products(matrix, rows.reshape(len(rows), columns))
        outputs.append(product.reshape(n, high, wide, len(rows)))
    return np.concatenate(outputs, 3).transpose(0, 3, 1, 2)


def _unknown(what: str) -> UnknownOperatorError:
    return UnknownOperatorError(
        "the integer reference must know every operator of the student",
        what,
        "compare the other rungs; report the network's name to have the operator added",
    )
