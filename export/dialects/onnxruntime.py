"""The dialect of ONNX Runtime's CPU kernels."""

from dataclasses import dataclass

import onnx_ir as ir

from lrq_deploy.errors import OptionError
from lrq_deploy.export.passes.curved_activations import CurvedActivationsPass
from lrq_deploy.export.passes.float_layers import FloatLayersPass
from lrq_deploy.export.passes.fold_activation import FoldActivationPass
from lrq_deploy.export.passes.global_pool import GlobalPoolPass
from lrq_deploy.export.passes.image_channels import ImageChannelsPass
from lrq_deploy.export.passes.int4_weights import Int4WeightsPass
from lrq_deploy.export.passes.integer_movement import IntegerMovementPass
from lrq_deploy.export.passes.integer_weights import IntegerWeightsPass
from lrq_deploy.export.passes.requantization import RequantizationPass
from lrq_deploy.export.passes.uint8_activations import Uint8ActivationsPass
from lrq_deploy.export.passes.upper_saturation import UpperSaturationPass
from lrq_deploy.export.runtime.version import (
    DEQUANTIZES_INT4,
    MOVES_INTEGERS_TO_CHANNELS,
    NEWEST_NEED,
    OLDEST,
    UNPACKS_INT2,
    UNPACKS_INT4,
    RuntimeVersion,
    version_text,
)
from lrq_deploy.planning.plan import Execution, LayerFacts, Sizes
from lrq_deploy.scheme import Scheme
from lrq_deploy.wording import size_text

__all__ = ["OnnxRuntimeTarget", "oldest_version"]


def oldest_version(scheme: Scheme) -> RuntimeVersion:
    """The oldest ONNX Runtime that a graph of the scheme can be written for."""
    return DEQUANTIZES_INT4 if scheme.int4_linear else OLDEST


@dataclass(frozen=True)
class OnnxRuntimeTarget:
    """uint8 activations, int8 or uint8 weights, integer clips, int32 biases.

    Attributes:
        oldest: version of ONNX Runtime that must load the graph. For older ones weights of few
            bits are packed less, two or one per byte, and images are read pixel by pixel.
    """

    oldest: RuntimeVersion = NEWEST_NEED
    name: str = "onnxruntime"
    title: str = "ONNX Runtime"
    file_name: str = "model.onnx"
    carrier_qmax: int = 255

    @property
    def _packed(self) -> tuple[int, ...]:
        """Widths that the runtime unpacks."""
        unpacked = {2: UNPACKS_INT2, 4: UNPACKS_INT4}
        return tuple(bits for bits, since in unpacked.items() if self.oldest >= since)

    def check(self, scheme: Scheme) -> None:
        """Every scheme of the project runs here, INT4 linear layers not in the oldest versions.

        Raises:
            OptionError: the version cannot dequantize INT4.
        """
        oldest = oldest_version(scheme)
        if self.oldest < oldest:
            raise OptionError(
                f"--int4-linear needs ONNX Runtime {version_text(oldest)} or later",
                version_text(self.oldest),
                "name a later version, or leave --int4-linear out",
            )

    def lower(self, model: ir.Model) -> None:
        """Apply the passes of the dialect in order."""
        for graph_pass in (
            GlobalPoolPass(),
            FoldActivationPass(),
            ImageChannelsPass(self.oldest >= MOVES_INTEGERS_TO_CHANNELS),
            FloatLayersPass(),
            Uint8ActivationsPass(),
            IntegerMovementPass(),
            RequantizationPass(),
            CurvedActivationsPass(),
            UpperSaturationPass(),
            IntegerWeightsPass(self._packed),
            Int4WeightsPass(),
        ):
            graph_pass(model)

    def execution(self, layer: LayerFacts, scheme: Scheme) -> Execution:
        """Agrees with ``coverage.audit`` on the exported graph."""
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
            together = "four" if weights <= 2 else "two"
            said = [
                f"{weights}-bit weights are stored packed, {together} per byte: "
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
