"""Activation quantizers become ``QuantizeLinear`` -> ``DequantizeLinear`` on int8."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.errors import ExportError
from lrq_deploy.export.passes._matching import (
    add_initializer,
    float_attribute,
    int_attribute,
    is_quantizer,
    stated_name,
    typed,
    unused_name,
)

__all__ = ["INT8_MAX", "INT8_MIN", "Int8ActivationsPass"]

INT8_MIN, INT8_MAX = -128, 127

# Operators whose result is never negative where none of their data inputs is.
_KEEP_SIGN = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Flatten",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "Mul",
        "ReduceMax",
        "ReduceMean",
        "Reshape",
        "Slice",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_ALL_INPUTS = frozenset({"Add", "Concat", "Mul"})
_NEVER_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})


class Int8ActivationsPass(ir.passes.InPlacePass):
    """The carrier of TensorRT's INT8 kernels.

    QuantizeLinear saturates at -128 and 127. Limits within that become a float ``Relu`` or
    ``Clip`` in front: rounding is monotone and a limit is a multiple of the scale, so
    ``quantize(clamp(x, low * scale, high * scale)) = clamp(quantize(x), low, high)``.

    Requires: clamps in front of quantizers are folded into ``low..high``.
    Ensures: no neutral quantizer is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every quantizer, in execution order."""
        quantizers = [node for node in model.graph if is_quantizer(node)]
        never_negative: set[str] = set()
        for node in quantizers:
            real = _lower(model.graph, node, never_negative)
            if int_attribute(node, "low") >= 0:
                never_negative.add(str(real.name))
        return ir.passes.PassResult(model, bool(quantizers))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_quantizer(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral quantizer is left")


def _lower(graph: ir.Graph, node: ir.Node, never_negative: set[str]) -> ir.Value:
    name = stated_name(node)
    _check(node, name)
    scale = np.asarray(float_attribute(node, "scale"), np.float32)
    scale_value = add_initializer(graph, f"{name}.scale", scale)
    zero_value = add_initializer(graph, f"{name}.zero_point", np.asarray(0, np.int8))
    output = node.outputs[0]
    label = unused_name(graph, name)
    x = _clamped(graph, node, label, scale, never_negative)
    quantize = ir.node("QuantizeLinear", [x, scale_value, zero_value], name=f"{label}.Q")
    stored = typed(quantize.outputs[0], f"{label}.stored", output.shape, ir.DataType.INT8)
    inputs = [stored, scale_value, zero_value]
    dequantize = ir.node("DequantizeLinear", inputs, name=f"{label}.DQ")
    real = typed(dequantize.outputs[0], label, output.shape)
    graph.insert_before(node, [quantize, dequantize])
    output.replace_all_uses_with(real, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return real


def _check(node: ir.Node, name: str) -> None:
    qmin, qmax = int_attribute(node, "qmin"), int_attribute(node, "qmax")
    zero_point = int_attribute(node, "zero_point")
    if zero_point != 0 or qmin < INT8_MIN or qmax > INT8_MAX:
        raise ExportError(
            f"TensorRT takes activations within {INT8_MIN}..{INT8_MAX} with zero point 0",
            f"{qmin}..{qmax} with zero point {zero_point} at {name}",
            "quantize with --act-symmetry symmetric",
        )


def _clamped(
    graph: ir.Graph,
    node: ir.Node,
    label: str,
    scale: np.ndarray[tuple[()], np.dtype[np.float32]],
    never_negative: set[str],
) -> ir.Value | None:
    """The input of the quantizer, behind the float clamp that its limits need."""
    x = node.inputs[0]
    low, high = int_attribute(node, "low"), int_attribute(node, "high")
    limited_below = low > 0 or (low > INT8_MIN and not _is_never_negative(x, never_negative))
    limited_above = high < INT8_MAX
    if x is None or not (limited_below or limited_above):
        return x
    if low == 0 and not limited_above:
        clamp = ir.node("Relu", [x], name=f"{label}.Relu")
    else:
        bounds = [
            add_initializer(graph, f"{label}.{end}", np.asarray(q * scale, np.float32))
            if limited
            else None
            for end, q, limited in (("low", low, limited_below), ("high", high, limited_above))
        ]
        clamp = ir.node("Clip", [x, *bounds], name=f"{label}.Clip")
    graph.insert_before(node, clamp)
    return typed(clamp.outputs[0], f"{label}.clamped", x.shape)


def _is_never_negative(value: ir.Value | None, known: set[str]) -> bool:
    """Whether the operators in front of ``value`` cannot give a negative number."""
    if value is None:
        return False
    producer = value.producer()
    if value.name in known or producer is None:
        return value.name in known
    if producer.op_type in _NEVER_NEGATIVE:
        return True
    if producer.op_type not in _KEEP_SIGN:
        return False
    inputs = producer.inputs if producer.op_type in _ALL_INPUTS else producer.inputs[:1]
    return all(_is_never_negative(x, known) for x in inputs)
