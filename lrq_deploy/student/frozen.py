"""The frozen student: integer weights, constant scales, biases on the integer grid.

A ``QuantizedModel`` is what ships. Its graph is an ``fx.GraphModule`` that holds

* ``call_module`` nodes to ``FrozenQuantizer`` (one tensor argument),
* ``call_module`` nodes to ``FrozenLayer`` and ``FloatLayer`` (one tensor argument),
* ``call_function`` nodes to ATen operators for everything else,

one placeholder ``input`` ``[N, C, H, W]`` and one output tensor ``[N, classes]``.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from lrq_deploy.graph.called_modules import called_modules
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import QParams, ScaleTable
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.operators import dequantize_weight, quantize_dequantize
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

__all__ = [
    "FloatLayer",
    "FrozenLayer",
    "FrozenQuantizer",
    "QuantizedModel",
]


class FrozenQuantizer(nn.Module):
    """Per-tensor activation quantizer with constant parameters."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.qparams = qparams
        self._scale = float(qparams.scale)
        self._zero_point = int(qparams.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays."""
        return cast(
            Tensor,
            quantize_dequantize(
                x, self._scale, self._zero_point, self.qparams.qmin, self.qparams.qmax
            ),
        )


class FrozenLayer(nn.Module):
    """A convolution or linear layer with stored integer weights.

    Attributes:
        spec: what it computes.
        qparams: scale table entry of the weight (per channel, zero points 0).
        input_quantizer: name of the activation quantizer that its input comes from.
        weight_q: int8 buffer in the operator's own weight layout.
        bias: float32 ``[C_out]``, each value a multiple of ``scale_x * scale_w[c]``, or None.
    """

    weight_q: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        spec: LayerSpec,
        qparams: QParams,
        input_quantizer: str,
        weight_q: Tensor,
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.qparams = qparams
        self.input_quantizer = input_quantizer
        self.register_buffer("weight_q", weight_q)
        self.register_buffer("weight_scale", qparams.scale.clone())
        self.register_buffer("bias", bias)

    @property
    def stored_weight(self) -> Tensor:
        """What a graph stores of the weight."""
        return self.weight_q

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to an already quantized input."""
        weight = dequantize_weight(self.weight_q, self.weight_scale, self.spec.channel_axis)
        return self.spec.apply(x, weight, self.bias)


class FloatLayer(nn.Module):
    """A layer that stays in float with the teacher's folded weights, trained or frozen.

    Attributes:
        spec: what it computes.
        stored_weight: float32 in the operator's own weight layout.
        bias: float32 ``[C_out]`` or None.
    """

    stored_weight: Tensor
    bias: Tensor | None

    def __init__(self, spec: LayerSpec, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("stored_weight", weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer in the type of ``x``; the exact student works in float64."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self.spec.apply(x, self.stored_weight.to(x.dtype), bias)


@dataclass(frozen=True)
class QuantizedModel:
    """The student as it ships.

    Attributes:
        graph: frozen student, ``[N, C, H, W] -> [N, classes]``; see the module docstring.
        table: the scale table; keys are the module paths used in ``graph``.
        scheme: the bit widths it was made for.
        input_shape: ``(C, H, W)``.
        num_classes: length of a row of logits.
        preprocessing: normalisation of the input.
        name: the teacher's name.
        teacher_fingerprint: SHA-256 of the teacher's weights.
        task: what the logits mean.
    """

    graph: fx.GraphModule
    table: ScaleTable
    scheme: Scheme
    input_shape: tuple[int, int, int]
    num_classes: int
    preprocessing: Preprocessing
    name: str
    teacher_fingerprint: str
    task: Task = "multiclass"

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of normalised images ``[N, C, H, W]``, without gradients."""
        with torch.no_grad():
            result: Tensor = self.graph(images)
        return result

    def layers(self) -> dict[str, FrozenLayer]:
        """Every quantized layer by name, in graph order."""
        return self.modules_of(FrozenLayer)

    def float_layers(self) -> dict[str, FloatLayer]:
        """Every layer that stays in float by name, in graph order."""
        return self.modules_of(FloatLayer)

    def quantizers(self) -> dict[str, FrozenQuantizer]:
        """Every activation quantizer by name, in graph order."""
        return self.modules_of(FrozenQuantizer)

    def modules_of(self, kind: Any) -> dict[str, Any]:
        """Every module of a type, or of a union of types, by name, in graph order."""
        return called_modules(self.graph, kind)
