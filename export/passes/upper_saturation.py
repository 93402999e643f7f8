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
    made_by,
    require_lowered,
)
from lrq_deploy.export.passes.integer_movement import MOVES
from lrq_deploy.export.passes.saturation import pair_sums_fit
from lrq_deploy.export.passes.signs import Sign, Signs

__all__ = ["UpperSaturationPass"]

_TOP = 255
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})


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
        signs, modified = Signs({}), False
        for node in list(model.graph):
            if node.op_type == "DequantizeLinear":
                signs.state(node.outputs[0], _sign_of_stored(node))
            elif node.op_type == "Clip" and made_by(node.inputs[0], "QuantizeLinear"):
                modified |= _remove(model.graph, node, signs)
            else:
                signs.learn(node)
        return ir.passes.PassResult(model, modified)


def _remove(graph: ir.Graph, clip: ir.Node, signs: Signs) -> bool:
    """Leave both limits of a quantizer to uint8, where that is possible."""
    stored, quantizer = clip.inputs[0], made_by(clip.inputs[0], "QuantizeLinear")
    low, high = (constant(value) for value in clip.inputs[1:3])
    zero_point = None if quantizer is None else constant(quantizer.inputs[2])
    if stored is None or quantizer is None or low is None or high is None or zero_point is None:
        return False
    readers = [node for node, _ in clip.outputs[0].uses()]
    if (
        low != zero_point
        or len(stored.uses()) > 1
        or signs.of(quantizer.inputs[0]) is not Sign.NON_NEGATIVE
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


def _sign_of_stored(dequantizer: ir.Node) -> Sign:
    from_zero = _stored_from(dequantizer.inputs[0], constant(dequantizer.inputs[2]))
    return Sign.NON_NEGATIVE if from_zero else Sign.ANY


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
