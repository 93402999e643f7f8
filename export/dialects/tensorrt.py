"""The dialect of TensorRT and TensorRT for RTX."""

from dataclasses import dataclass

import onnx_ir as ir

from lrq_deploy.errors import OptionError
from lrq_deploy.export.passes.fold_activation import FoldActivationPass
from lrq_deploy.export.passes.global_pool import GlobalPoolPass
from lrq_deploy.export.passes.int4_weights import Int4WeightsPass
from lrq_deploy.export.passes.int8_activations import Int8ActivationsPass
from lrq_deploy.export.passes.int8_weights import Int8WeightsPass
from lrq_deploy.planning.plan import Execution, LayerFacts, Sizes
from lrq_deploy.scheme import Scheme

__all__ = ["TensorRTTarget"]


@dataclass(frozen=True)
class TensorRTTarget:
    """int8 activations and weights with zero points 0, float biases on the integer grid.

    Narrower widths are carried in int8: TensorRT has no convolution of INT4 weights with INT8
    activations.
    """

    name: str = "tensorrt"
    title: str = "TensorRT"
    file_name: str = "model.tensorrt.onnx"
    carrier_qmax: int = 127

    def check(self, scheme: Scheme) -> None:
        """Refuse zero points.

        Raises:
            OptionError: activations are asymmetric.
        """
        if scheme.act_symmetry != "symmetric":
            raise OptionError(
                "TensorRT takes only zero points of 0, so activations must be symmetric",
                f"act_symmetry {scheme.act_symmetry}",
                "pass --act-symmetry symmetric, or run the graph in ONNX Runtime",
            )

    def lower(self, model: ir.Model) -> None:
        """Apply the passes of the dialect in order."""
        for graph_pass in (
            GlobalPoolPass(),
            FoldActivationPass(),
            Int8ActivationsPass(),
            Int8WeightsPass(),
            Int4WeightsPass(),
        ):
            graph_pass(model)

    def execution(self, layer: LayerFacts, scheme: Scheme) -> Execution:
        """INT8 for convolutions and linear layers whose zero points are 0."""
        if layer.is_weight_only:
            return Execution(False, "INT4 weight-only linear", "its input is float")
        words = {
            "conv2d": "convolution",
            "conv_transpose2d": "transposed convolution",
            "linear": "linear",
        }[layer.kind]
        if scheme.act_symmetry == "asymmetric":
            return Execution(
                False, f"refused {words}", "zero points must be 0: use --act-symmetry symmetric"
            )
        if layer.kind == "conv_transpose2d":
            return Execution(False, f"float {words}", "TensorRT for RTX has no INT8 kernel for it")
        note = ""
        if layer.grouping == "depthwise":
            note = "often slower than FP16, because channels are padded; measure both"
        elif layer.grouping == "grouped":
            note = "may be slower than FP16, because channels of a group are padded; measure both"
        return Execution(True, f"INT8 {words}", note)

    def what_bits_buy(self, scheme: Scheme, sizes: Sizes) -> tuple[str, ...]:
        """Below 8 bits nothing gets faster, and INT8 itself need not be faster than FP16."""
        weights, activations = scheme.weight_bits, scheme.act_bits
        said = []
        if min(weights, activations) < 8:
            said.append(
                f"{scheme.describe()} runs in INT8 convolutions, with the narrow values carried "
                "in 8 bits: exact, same engine size as 8 bits and not faster. What is gained is "
                "a file that compresses better."
            )
        else:
            said.append("8 bits run in INT8 convolutions.")
        said.append(
            "TensorRT for RTX writes the sums of INT8 layers as FP32 and rounds them in kernels of "
            "their own, so INT8 is likely slower than FP16 there: measure both with bench."
        )
        if weights == 4 and not scheme.int4_linear:
            said.append(
                "INT4 is a weight-only format of linear layers there and wants float "
                "activations: --int4-linear. A quantized classifier keeps INT8 unless given."
            )
        if scheme.act_symmetry == "asymmetric":
            said.append("Free zero points are refused: use --act-symmetry symmetric.")
        return tuple(said)
