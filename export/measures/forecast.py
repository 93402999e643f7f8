"""What each runtime makes of a student, as measured in ``docs``: the knowledge behind ``plan``."""

from dataclasses import dataclass

from lrq_deploy.planning.plan import Execution, LayerFacts, RuntimeForecast, Sizes
from lrq_deploy.scheme import Scheme
from lrq_deploy.wording import size_text

__all__ = ["OnnxRuntimeForecast", "TensorRtForecast", "forecasts"]

_KEPT = Execution(False, "float convolution", "--depthwise float keeps it so")


def forecasts() -> tuple[RuntimeForecast, ...]:
    """Every runtime that a plan speaks of."""
    return (OnnxRuntimeForecast(), TensorRtForecast())


@dataclass(frozen=True)
class OnnxRuntimeForecast:
    """The CPU kernels of ONNX Runtime with all optimisations on."""

    name: str = "onnxruntime"

    def execution(self, layer: LayerFacts, scheme: Scheme) -> Execution:
        """Agrees with ``coverage.audit`` on the exported graph."""
        if layer.is_float:
            return _KEPT
        if layer.is_weight_only:
            return Execution(False, "float linear", "--int4-linear keeps its input in float")
        if layer.kind == "conv_transpose2d":
            return Execution(False, "float ConvTranspose", "there is no integer kernel for it")
        if layer.kind == "conv2d" and layer.gives_logits:
            return Execution(
                False, "float Conv", "its result is the logits, which stay float; use a linear head"
            )
        return Execution(True, "INT8 linear" if layer.kind == "linear" else "INT8 convolution")

    def what_bits_buy(self, scheme: Scheme, sizes: Sizes) -> tuple[str, ...]:
        """The file gets smaller below 5 bits; the speed is that of 8 bits at every width."""
        weights, activations = scheme.weight_bits, scheme.act_bits
        if weights <= 4:
            said = [
                f"{weights}-bit weights are stored packed, two per byte: "
                f"{size_text(sizes.packed_bytes)} to download instead of "
                f"{size_text(sizes.int8_bytes)} at 8 bits. They are unpacked to INT8 at load, "
                "so convolutions are not faster and memory is that of 8 bits."
            ]
        elif weights < 8:
            said = [f"{weights}-bit weights are stored in a byte each: no smaller than 8 bits."]
        else:
            said = ["8-bit weights run in INT8 kernels, a quarter of the float size."]
        if activations < 8:
            said.append(
                f"{activations}-bit activations are carried in 8 bits with an integer clip: "
                "exact, but not faster."
            )
        return tuple(said)


@dataclass(frozen=True)
class TensorRtForecast:
    """TensorRT and TensorRT for RTX; their parsers were measured, no GPU was."""

    name: str = "tensorrt"

    def execution(self, layer: LayerFacts, scheme: Scheme) -> Execution:
        """INT8 for convolutions and linear layers whose zero points are 0."""
        if layer.is_float:
            return _KEPT
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
