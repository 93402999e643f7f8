"""Activation quantizers become ``QuantizeLinear`` -> ``Clip`` -> ``DequantizeLinear`` on uint8."""

import numpy as np
import onnx_ir as ir

from lrq_deploy.errors import ExportError
from lrq_deploy.export.passes._matching import (
    add_initializer,
    float_attribute,
    int_attribute,
    is_quantizer,
    made_by,
    stated_name,
    typed,
    unused_name,
)

__all__ = ["Uint8ActivationsPass"]


class Uint8ActivationsPass(ir.passes.InPlacePass):
    """The carrier of ONNX Runtime's x86 kernels.

    An integer q of ``qmin..qmax`` is stored as ``q - qmin``, so a stored value is never larger
    than ``qmax - qmin``: small stored values are what keeps 16-bit partial sums from saturating.
    The ``Clip`` works on integers (one on floats would stop the fusion) and is left out where
    the saturation of ``QuantizeLinear`` at 0 and 255 already does its work. Behind a ``Softmax``
    the fusion must be stopped: ``QLinearSoftmax`` rounds some values to the next integer. There a
    ``Min`` on floats limits them, to a multiple of the scale, which gives the same integers.

    Ensures: no neutral quantizer is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every quantizer."""
        quantizers = [node for node in model.graph if is_quantizer(node)]
        for node in quantizers:
            _lower(model.graph, node)
        return ir.passes.PassResult(model, bool(quantizers))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_quantizer(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral quantizer is left")


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    name = stated_name(node)
    qmin = int_attribute(node, "qmin")
    zero_point = int_attribute(node, "zero_point") - qmin
    if not (0 <= zero_point <= 255 and int_attribute(node, "qmax") - qmin <= 255):
        raise ExportError(
            "an activation must fit 8 bits with its zero point inside the range",
            f"{qmin}..{int_attribute(node, 'qmax')} with zero point {zero_point + qmin} at {name}",
            "use --act-bits 8 or fewer",
        )
    scale = np.asarray(float_attribute(node, "scale"), np.float32)
    scale_value = add_initializer(graph, f"{name}.scale", scale)
    zero_value = add_initializer(graph, f"{name}.zero_point", np.asarray(zero_point, np.uint8))
    output = node.outputs[0]
    label = unused_name(graph, name)
    low, high = int_attribute(node, "low") - qmin, int_attribute(node, "high") - qmin
    source, new = node.inputs[0], []
    behind_softmax = made_by(source, "Softmax") is not None and low == zero_point == 0
    if behind_softmax:
        largest = add_initializer(graph, f"{label}.largest", scale * np.float32(high))
        new.append(ir.node("Min", [source, largest], name=f"{label}.Min"))
        source = typed(new[-1].outputs[0], f"{label}.limited", output.shape)
    new.append(ir.node("QuantizeLinear", [source, scale_value, zero_value], name=f"{label}.Q"))
    kind = ir.DataType.UINT8
    stored = typed(new[-1].outputs[0], f"{label}.rounded", output.shape, kind)
    if (low, high) != (0, 255) and not behind_softmax:
        bounds = [
            add_initializer(graph, f"{label}.{end}", np.asarray(value, np.uint8))
            for end, value in (("low", low), ("high", high))
        ]
        new.append(ir.node("Clip", [stored, *bounds], name=f"{label}.Clip"))
        stored = typed(new[-1].outputs[0], f"{label}.stored", output.shape, kind)
    new.append(ir.node("DequantizeLinear", [stored, scale_value, zero_value], name=f"{label}.DQ"))
    real = typed(new[-1].outputs[0], label, output.shape)
    graph.insert_before(node, new)
    output.replace_all_uses_with(real, replace_graph_outputs=True)
    graph.remove(node, safe=True)
