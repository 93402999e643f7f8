"""The float network that a student stands for: the same operators without quantizers.

It measures latency, not accuracy. A bundle holds no float weights, so they are the dequantized
ones; kernels of ONNX Runtime take the same time for any of them. Nor does a bundle hold the limits
of a clip that a quantizer repeats: 0 is read off the quantizer, an upper limit is not known.
"""

import math

import numpy as np
import onnx
import onnx_ir as ir

from lrq_deploy.errors import ExportError
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import ONNX_SCHEMA, finish
from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    int_attribute,
    is_int4_weight,
    is_quantizer,
    is_weight,
    string_attribute,
)
from lrq_deploy.export.signs import Sign, Signs
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["WithoutQuantizersPass", "float_twin"]


class WithoutQuantizersPass(ir.passes.InPlacePass):
    """Quantizers go, weights become float32.

    A quantizer without negative integers is all that is left of the ReLU in front of it (see
    ``absorb_rectifiers``), so a ReLU takes its place behind what may be negative.

    Args:
        images: the sign of the graph's input.

    Ensures: nothing of the neutral domain is left.
    """

    def __init__(self, images: Sign = Sign.ANY) -> None:
        super().__init__()
        self._images = images

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass."""
        signs = Signs(dict.fromkeys(model.graph.inputs, self._images))
        for node in list(model.graph):
            if is_quantizer(node):
                _replace_quantizer(model.graph, node, signs)
            elif is_weight(node) or is_int4_weight(node):
                _replace_weight(model.graph, node)
            else:
                signs.learn(node)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(
            is_quantizer(node) or is_weight(node) or is_int4_weight(node) for node in model.graph
        ):
            raise ir.passes.PostconditionError("a neutral operator is left")


def float_twin(model: QuantizedModel, neutral: ir.Model | None = None) -> onnx.ModelProto:
    """ONNX graph ``input`` -> ``logits`` in float32 with the operators of the student.

    Args:
        model: the student.
        neutral: ``neutral_graph(model)``, where it is at hand; stays as it is.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    graph = neutral_graph(model) if neutral is None else neutral.clone()
    lowest = min((low for low, _ in _image_bounds(model)), default=-math.inf)
    WithoutQuantizersPass(Sign.NON_NEGATIVE if lowest >= 0 else Sign.ANY)(graph)
    return finish(graph, {"lrq_schema_version": str(ONNX_SCHEMA), "lrq_target": "float"})


def _image_bounds(model: QuantizedModel) -> list[tuple[float, float]]:
    return model.preprocessing.bounds() if model.preprocessing.known else []


def _replace_quantizer(graph: ir.Graph, node: ir.Node, signs: Signs) -> None:
    x, output = node.inputs[0], node.outputs[0]
    if x is None:
        raise ExportError("a quantizer must have an input", str(node.name), "report the network")
    rectifies = int_attribute(node, "qmin") >= int_attribute(node, "zero_point")
    if rectifies and signs.of(x) is Sign.ANY:
        relu = ir.node("Relu", [x])
        real = relu.outputs[0]
        real.name, real.shape, real.type = f"{output.name}.relu", output.shape, output.type
        graph.insert_before(node, relu)
        signs.learn(relu)
        x = real
    output.replace_all_uses_with(x, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _replace_weight(graph: ir.Graph, node: ir.Node) -> None:
    integers, scale = constant(node.inputs[0]), constant(node.inputs[1])
    name = string_attribute(node, "name")
    if integers is None or scale is None:
        raise ExportError("weights must be constants", name, "report the network's name")
    if is_int4_weight(node):
        spread = np.repeat(scale, int_attribute(node, "block"), axis=1)
    else:
        axis = int_attribute(node, "axis")
        spread = scale.reshape([-1 if d == axis else 1 for d in range(integers.ndim)])
    weight = integers.astype(np.float32) * spread
    real = add_initializer(graph, f"{name}.weight", weight.astype(np.float32))
    node.outputs[0].replace_all_uses_with(real)
    graph.remove(node, safe=True)
