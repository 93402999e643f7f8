"""The dialect of TensorRT and TensorRT for RTX."""

from dataclasses import dataclass

import onnx_ir as ir

from lrq_deploy.errors import OptionError
from lrq_deploy.export.passes.fold_activation import FoldActivationPass
from lrq_deploy.export.passes.global_pool import GlobalPoolPass
from lrq_deploy.export.passes.int4_weights import Int4WeightsPass
from lrq_deploy.export.passes.int8_activations import Int8ActivationsPass
from lrq_deploy.export.passes.int8_weights import Int8WeightsPass
from lrq_deploy.scheme import Scheme

__all__ = ["TensorRTTarget"]


@dataclass(frozen=True)
class TensorRTTarget:
    """int8 activations and weights with zero points 0, float biases on the integer grid.

    Narrower widths are carried in int8: TensorRT has no convolution of INT4 weights with INT8
    activations.
    """

    name: str = "tensorrt"
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
