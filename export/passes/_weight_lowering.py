"""What every dialect does with a neutral weight: integers behind ``DequantizeLinear``."""

from abc import abstractmethod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lrq_deploy.errors import ExportError
from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    float_attribute,
    int_attribute,
    is_weight,
    stated_name,
    typed,
    weight_arrays,
)

__all__ = [
    "BIAS_INPUT",
    "Array",
    "WeightLoweringPass",
    "bias_and_step",
    "bias_integers",
    "dequantize_weight",
]

Array = NDArray[np.int8]

BIAS_INPUT = 2
_INT32_MAX = 2**31 - 1
_WITH_BIAS = ("Conv", "Gemm", "ConvTranspose")


class WeightLoweringPass(ir.passes.InPlacePass):
    """Each neutral weight becomes stored integers with one scale and zero point per channel.

    Ensures: no neutral weight is left.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every weight."""
        weights = [node for node in model.graph if is_weight(node)]
        for node in weights:
            self._lower(model.graph, node)
        return ir.passes.PassResult(model, bool(weights))

    def ensures(self, model: ir.Model) -> None:
        """Check the postcondition."""
        if any(is_weight(node) for node in model.graph):
            raise ir.passes.PostconditionError("a neutral weight is left")

    @abstractmethod
    def stored(self, graph: ir.Graph, node: ir.Node, weight: Array) -> tuple[ir.Value | None, int]:
        """What is dequantized, and its zero point: 0 (int8) or not (uint8).

        Args:
            graph: that holds the weight.
            node: the neutral weight, whose first input are its integers as int8.
            weight: the numbers of these.
        """

    @abstractmethod
    def adapt(self, graph: ir.Graph, node: ir.Node, layer: ir.Node, index: int) -> None:
        """Fit the rest of a layer that reads the weight as its input ``index``."""

    def _lower(self, graph: ir.Graph, node: ir.Node) -> None:
        name, (weight, scales) = stated_name(node), weight_arrays(node)
        integers, zero_point = self.stored(graph, node, weight)
        zeros = np.full(scales.size, zero_point, np.uint8 if zero_point else np.int8)
        zero_points = add_initializer(graph, f"{name}.weight_zero_point", zeros)
        for layer, index in list(node.outputs[0].uses()):
            self.adapt(graph, node, layer, index)
        inputs = [integers, node.inputs[1], zero_points]
        dequantize_weight(graph, node, inputs, {"axis": int_attribute(node, "axis")})


def dequantize_weight(
    graph: ir.Graph, node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, int]
) -> None:
    """Put a ``DequantizeLinear`` in the place of a neutral weight, and name its layers by it."""
    name, output = stated_name(node), node.outputs[0]
    new = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.weight.DQ")
    real = typed(new.outputs[0], f"{name}.weight", output.shape)
    graph.insert_before(node, new)
    for layer, _ in output.uses():
        layer.name = name
    output.replace_all_uses_with(real)
    graph.remove(node, safe=True)


def bias_and_step(
    weight: ir.Node, layer: ir.Node
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Bias of a layer and ``scale_x * scale_w`` per channel, both ``[C]``; None without a bias."""
    if layer.op_type not in _WITH_BIAS or len(layer.inputs) <= BIAS_INPUT:
        return None
    bias, scales = constant(layer.inputs[BIAS_INPUT]), constant(weight.inputs[1])
    if bias is None or scales is None:
        return None
    input_scale = np.float32(float_attribute(weight, "input_scale"))
    # A grouped transposed convolution shares the scales of its weight across the groups.
    step = input_scale * np.tile(scales.astype(np.float32), bias.size // scales.size)
    return bias.astype(np.float32), step


def bias_integers(
    name: str, bias: NDArray[np.float32], step: NDArray[np.float32]
) -> NDArray[np.int32]:
    """``bias / step`` as int32, both of shape ``[C]``.

    Raises:
        ExportError: a bias is off the grid or does not fit 32 bits.
    """
    exact = bias.astype(np.float64) / step.astype(np.float64)
    integers = np.rint(exact)
    # A float32 bias and a float32 step each carry half a unit in the last place.
    tolerance = 1e-3 + np.abs(integers) * 2.0**-22
    too_large = np.abs(integers) > _INT32_MAX + tolerance
    if np.any(np.abs(exact - integers) > tolerance) or np.any(too_large):
        worst = float(np.max(np.abs(exact - integers)))
        raise ExportError(
            "biases must be multiples of scale_x * scale_w within 32 bits",
            f"{name} up to {worst:.3g} steps off the grid, {np.max(np.abs(integers)):.3g} steps",
            "this is a fault of lrq-deploy; please report it with the network's name",
        )
    return np.clip(integers, -_INT32_MAX, _INT32_MAX).astype(np.int32)
