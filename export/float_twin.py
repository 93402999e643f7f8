"""The float network that a student stands for: the same operators without quantizers.

It measures latency, not accuracy. A bundle holds no float weights, so they are the dequantized
ones; kernels of ONNX Runtime take the same time for any of them. Clips that quantizers repeat are
in their place again.
"""

import math
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from lrq_deploy.errors import ExportError
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import ONNX_SCHEMA, finish
from lrq_deploy.export.passes._matching import (
    add_initializer,
    float_attribute,
    int_attribute,
    is_int4_weight,
    is_quantizer,
    is_weight,
    stated_name,
    weight_arrays,
)
from lrq_deploy.export.passes.signs import Sign, Signs
from lrq_deploy.graph.clipping import Limits
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["Replaced", "WithoutQuantizersPass", "float_twin", "image_sign"]


class Replaced(NamedTuple):
    """A call of a quantizer that a pass removed.

    Attributes:
        quantizer: its name.
        limits: of the clip in its place.
        value: what its readers read now.
    """

    quantizer: str
    limits: Limits
    value: ir.Value


class WithoutQuantizersPass(ir.passes.InPlacePass):
    """Quantizers go, weights become float32.

    A quantizer without negative integers is all that is left of the ReLU in front of it (see
    ``place_quantizers``), so a ReLU takes its place behind what may be negative. Other clips are
    noted where they were removed (``absorb_rectifiers``).

    Args:
        images: the sign of the graph's input.

    Attributes:
        replaced: every call of a quantizer, in graph order.

    Ensures: nothing of the neutral domain is left.
    """

    def __init__(self, images: Sign = Sign.ANY) -> None:
        super().__init__()
        self._images = images
        self.replaced: list[Replaced] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass."""
        signs = Signs(dict.fromkeys(model.graph.inputs, self._images))
        for node in list(model.graph):
            if is_quantizer(node):
                self.replaced.append(_replace_quantizer(model.graph, node, signs))
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
    WithoutQuantizersPass(image_sign(model))(graph)
    return finish(graph, {"lrq_schema_version": str(ONNX_SCHEMA), "lrq_target": "float"})


def image_sign(model: QuantizedModel) -> Sign:
    """What the normalisation says of the input's sign."""
    bounds = model.preprocessing.bounds() if model.preprocessing.known else []
    lowest = min((low for low, _ in bounds), default=-math.inf)
    return Sign.NON_NEGATIVE if lowest >= 0 else Sign.ANY


def _replace_quantizer(graph: ir.Graph, node: ir.Node, signs: Signs) -> Replaced:
    x, output = node.inputs[0], node.outputs[0]
    if x is None:
        raise ExportError("a quantizer must have an input", str(node.name), "report the network")
    low, high = _limits(node, x, signs)
    if low is not None or high is not None:
        clip = _clip(graph, x, low, high, f"{output.name}.clipped")
        clip.outputs[0].shape, clip.outputs[0].type = output.shape, output.type
        graph.insert_before(node, clip)
        signs.learn(clip)
        x = clip.outputs[0]
    output.replace_all_uses_with(x, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return Replaced(stated_name(node), (low, high), x)


def _limits(node: ir.Node, x: ir.Value, signs: Signs) -> Limits:
    """What the quantizer's own range repeats of the clips in front of it."""
    low, high = (
        float_attribute(node, end) if end in node.attributes else None
        for end in ("clip_low", "clip_high")
    )
    rectifies = int_attribute(node, "qmin") >= int_attribute(node, "zero_point")
    if rectifies and signs.of(x) is Sign.ANY:
        low = max(low or 0.0, 0.0)
    elif low == 0 and signs.of(x) is Sign.NON_NEGATIVE:
        low = None
    return low, high


def _clip(
    graph: ir.Graph, x: ir.Value, low: float | None, high: float | None, name: str
) -> ir.Node:
    if high is None and low == 0:
        node = ir.node("Relu", [x])
    else:
        bounds = [
            None
            if end is None
            else add_initializer(graph, f"{name}.{i}", np.asarray(end, np.float32))
            for i, end in enumerate((low, high))
        ]
        node = ir.node("Clip", [x, *bounds])
    node.outputs[0].name = name
    return node


def _replace_weight(graph: ir.Graph, node: ir.Node) -> None:
    integers, scale = weight_arrays(node)
    name = stated_name(node)
    if is_int4_weight(node):
        spread = np.repeat(scale, int_attribute(node, "block"), axis=1)
    else:
        axis = int_attribute(node, "axis")
        spread = scale.reshape([-1 if d == axis else 1 for d in range(integers.ndim)])
    weight = integers.astype(np.float32) * spread
    real = add_initializer(graph, f"{name}.weight", weight.astype(np.float32))
    node.outputs[0].replace_all_uses_with(real)
    graph.remove(node, safe=True)
