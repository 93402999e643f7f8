"""The dialect of ONNX Runtime's CPU kernels."""

from dataclasses import dataclass

import onnx_ir as ir

from lrq_deploy.export.passes.curved_activations import CurvedActivationsPass
from lrq_deploy.export.passes.float_layers import FloatLayersPass
from lrq_deploy.export.passes.fold_activation import FoldActivationPass
from lrq_deploy.export.passes.global_pool import GlobalPoolPass
from lrq_deploy.export.passes.image_channels import ImageChannelsPass
from lrq_deploy.export.passes.int4_weights import Int4WeightsPass
from lrq_deploy.export.passes.integer_movement import IntegerMovementPass
from lrq_deploy.export.passes.integer_weights import IntegerWeightsPass
from lrq_deploy.export.passes.table_requantization import TableRequantizationPass
from lrq_deploy.export.passes.uint8_activations import Uint8ActivationsPass
from lrq_deploy.scheme import Scheme

__all__ = ["OnnxRuntimeTarget"]


@dataclass(frozen=True)
class OnnxRuntimeTarget:
    """uint8 activations, int8 or uint8 weights, integer clips, int32 biases.

    Attributes:
        packed: store weights of at most 4 bits as int4; they are unpacked once, at load.
    """

    packed: bool = True
    name: str = "onnxruntime"
    file_name: str = "model.onnx"
    carrier_qmax: int = 255

    def check(self, scheme: Scheme) -> None:
        """Every scheme of the project runs here."""

    def lower(self, model: ir.Model) -> None:
        """Apply the passes of the dialect in order."""
        for graph_pass in (
            GlobalPoolPass(),
            FoldActivationPass(),
            TableRequantizationPass(),
            ImageChannelsPass(),
            FloatLayersPass(),
            Uint8ActivationsPass(),
            IntegerMovementPass(),
            CurvedActivationsPass(),
            IntegerWeightsPass(self.packed),
            Int4WeightsPass(),
        ):
            graph_pass(model)
