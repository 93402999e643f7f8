"""Clamping activations in front of a quantizer become limits on its integers."""

import math

import numpy as np
import onnx_ir as ir

from lrq_deploy.export.passes._matching import (
    constant,
    float_attribute,
    int_attribute,
    is_quantizer,
)

__all__ = ["FoldActivationPass"]


class FoldActivationPass(ir.passes.InPlacePass):
    """``Relu`` or ``Clip`` -> ``QuantizeDequantize``: the clamp moves into ``low..high``.

    Rounding is monotone, so ``quantize(clamp(x, a, b))`` equals
    ``clamp(quantize(x), quantize(a), quantize(b))`` for every x: the change is exact. A float
    clamp between a convolution and its quantizer would stop ONNX Runtime from fusing them.

    Ensures: no quantizer reads a ``Relu`` or a ``Clip`` with constant bounds.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold chains of clamps one after the other."""
        modified = False
        for node in model.graph:
            while is_quantizer(node) and _fold_one(node):
                modified = True
        if modified:
            ir.passes.common.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified)


def _fold_one(quantizer: ir.Node) -> bool:
    x = quantizer.inputs[0]
    producer = x.producer() if x is not None else None
    bounds = None if producer is None else _clamp_bounds(producer)
    if producer is None or bounds is None:
        return False
    low, high = int_attribute(quantizer, "low"), int_attribute(quantizer, "high")
    new_low = min(max(low, _quantized(quantizer, bounds[0])), high)
    new_high = max(min(high, _quantized(quantizer, bounds[1])), new_low)
    quantizer.attributes["low"] = ir.AttrInt64("low", new_low)
    quantizer.attributes["high"] = ir.AttrInt64("high", new_high)
    quantizer.replace_input_with(0, producer.inputs[0])
    return True


def _clamp_bounds(node: ir.Node) -> tuple[float, float] | None:
    if node.domain != "":
        return None
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    limits = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is not None:
            array = constant(value)
            if array is None:
                return None
            limits[index] = float(array.reshape(-1)[0].item())
    return limits[0], limits[1]


def _quantized(quantizer: ir.Node, real: float) -> int:
    """The integer of a bound, with the float32 arithmetic of the runtime."""
    qmin, qmax = int_attribute(quantizer, "qmin"), int_attribute(quantizer, "qmax")
    if math.isinf(real):
        return qmin if real < 0 else qmax
    scale = np.float32(float_attribute(quantizer, "scale"))
    steps = float(np.rint(np.float32(real) / scale))
    return int(min(max(steps + int_attribute(quantizer, "zero_point"), qmin), qmax))
