"""Where a tensor has no negative values, the saturation of uint8 does the work of its ``Clip``."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    int_attribute,
    is_weight,
    require_lowered,
)
from lrq_deploy.export.passes.integer_movement import MOVES
from lrq_deploy.export.saturation import pair_sums_fit

__all__ = ["UpperSaturationPass"]

_TOP = 255
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_RECTIFIERS = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})
_KEEP_THE_SIGN = frozenset({"Add", "AveragePool", "GlobalAveragePool", "Mul"})


class UpperSaturationPass(ir.passes.InPlacePass):
    """``QuantizeLinear`` -> ``Clip`` becomes ``QuantizeLinear`` with the largest integer at 255.

    A limit below is needless where what is quantized is never negative, such as the narrow copy of
    a sum behind a ReLU. With ``zero_point = 255 - qmax`` the limit above is that of uint8. Stored
    values are large then, so it is done where weights are small enough for exact pair sums.

    Requires: activation quantizers are lowered, weights are not.
    Ensures: the same integers ``q - zero_point``.
    """

    def requires(self, model: ir.Model) -> None:
        """Check the precondition."""
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove what can be removed."""
        removed = [_remove(model.graph, n) for n in list(model.graph) if n.op_type == "Clip"]
        return ir.passes.PassResult(model, any(removed))


def _remove(graph: ir.Graph, clip: ir.Node) -> bool:
    stored = clip.inputs[0]
    quantizer = stored.producer() if stored is not None else None
    if stored is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
        return False
    low, high = (constant(value) for value in clip.inputs[1:3])
    zero_point = constant(quantizer.inputs[2])
    readers = [node for node, _ in clip.outputs[0].uses()]
    if (
        low is None
        or high is None
        or zero_point is None
        or low != zero_point
        or len(stored.uses()) > 1
        or not _never_negative(quantizer.inputs[0])
        or not all(_leads_to_small_weights(node) for node in readers)
    ):
        return False
    largest = int(high) - int(zero_point)
    array = np.asarray(_TOP - largest, np.uint8)
    moved = add_initializer(graph, f"{stored.name}.zero_point", array)
    for node in (quantizer, *readers):
        node.replace_input_with(2, moved)
    clip.outputs[0].replace_all_uses_with(stored)
    graph.remove(clip, safe=True)
    return True


def _leads_to_small_weights(reader: ir.Node) -> bool:
    """Whether only layers read what ``reader`` dequantizes, exact with values of up to 255."""
    if reader.op_type != "DequantizeLinear":
        return False
    uses = list(reader.outputs[0].uses())
    return bool(uses) and all(index == 0 and _exact_at_the_top(layer) for layer, index in uses)


def _exact_at_the_top(layer: ir.Node) -> bool:
    weight = layer.inputs[1].producer() if layer.inputs[1:] and layer.inputs[1] else None
    if layer.op_type not in _LAYERS or weight is None or not is_weight(weight):
        return False
    integers = constant(weight.inputs[0])
    return integers is not None and pair_sums_fit(integers, int_attribute(weight, "axis"), _TOP)


def _never_negative(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    if node is None or node.domain:
        return False
    if node.op_type == "DequantizeLinear":
        return _stored_from(node.inputs[0], constant(node.inputs[2]))
    if node.op_type == "Clip":
        low = constant(node.inputs[1])
        return low is not None and bool(low >= 0)
    followed = node.inputs if node.op_type in _KEEP_THE_SIGN else ()
    return node.op_type in _RECTIFIERS or (bool(followed) and all(map(_never_negative, followed)))


def _stored_from(value: ir.Value | None, zero_point: NDArray[Any] | None) -> bool:
    """Whether no stored integer lies below ``zero_point``."""
    numbers, node = constant(value), value.producer() if value is not None else None
    if zero_point is None:
        return False
    if numbers is not None:
        return bool((numbers >= zero_point).all())
    if node is None:
        return False
    if node.op_type == "Clip":
        low = constant(node.inputs[1])
        return low is not None and bool(low >= zero_point)
    if node.op_type == "QuantizeLinear":
        return not zero_point.any()
    return node.op_type in MOVES and _stored_from(node.inputs[0], zero_point)
