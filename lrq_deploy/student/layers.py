"""Trainable parts of a student: activation quantizers and weighted layers."""

import torch
from torch import Tensor, nn

from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.bias_grid import snap_to_grid
from lrq_deploy.student.fake_quant import (
    fake_quantize_per_channel,
    fake_quantize_per_tensor,
)
from lrq_deploy.student.frozen import LayerSpec

__all__ = ["ActQuantizer", "QuantizedLayer", "channel_scale_shape", "set_enabled"]


class ActQuantizer(nn.Module):
    """Per-tensor fake quantizer of an activation with a learned step.

    Attributes:
        log_scale: natural logarithm of the scale, shape ``[]``; learned, so that a step of the
            optimiser is relative and the scale stays above 0.
        zero_point: integer in ``qmin..qmax``, or 0.
        bounds: smallest and largest stored integer.
        bits: nominal width.
        signed: whether the tensor may be negative.
        known_range: smallest and largest value where known beforehand (an image), else None.
    """

    def __init__(
        self,
        bounds: IntegerRange,
        bits: int,
        signed: bool,
        known_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.bounds = bounds
        self.bits = bits
        self.signed = signed
        self.known_range = known_range
        self.zero_point = 0
        self.enabled = True
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """Scale of the integers, shape ``[]``, above 0."""
        return self.log_scale.exp()

    def set_range(self, scale: float, zero_point: int = 0) -> None:
        """Start from a calibrated scale and zero point."""
        with torch.no_grad():
            self.log_scale.fill_(float(torch.tensor(scale, dtype=torch.float64).log()))
        self.zero_point = zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays. Disabled, it only clips what has no sign."""
        if not self.enabled:
            return x if self.signed else torch.relu(x)
        return fake_quantize_per_tensor(
            x, self.scale, self.zero_point, self.bounds.qmin, self.bounds.qmax
        )


class QuantizedLayer(nn.Module):
    """A convolution or linear layer whose weight and bias are on their integer grids.

    Attributes:
        spec: what it computes.
        weight: latent float weight in the operator's layout.
        bias: float ``[C_out]`` or None.
        log_scale: per output channel, ``[C]``.
        bounds: smallest and largest stored weight.
        bits: nominal width.
        input_quantizer: module path of the quantizer that its input comes from.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        spec: LayerSpec,
        weight: Tensor,
        bias: Tensor | None,
        bounds: IntegerRange,
        bits: int,
        input_quantizer: str,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.bounds = bounds
        self.bits = bits
        self.input_quantizer = input_quantizer
        self.enabled = True
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        channels = weight.shape[spec.channel_axis]
        self.log_scale = nn.Parameter(torch.zeros(channels))

    @property
    def scale(self) -> Tensor:
        """Scale of the weights per output channel, ``[C]``, above 0."""
        return self.log_scale.exp()

    def set_scale(self, scale: Tensor) -> None:
        """Start from a calibrated scale per output channel."""
        with torch.no_grad():
            self.log_scale.copy_(scale.log())

    def quantized_weight(self) -> Tensor:
        """Fake-quantized weight, differentiable in the weight and the scale."""
        return fake_quantize_per_channel(
            self.weight, self.scale, self.spec.channel_axis, self.bounds.qmin, self.bounds.qmax
        )

    def snapped_bias(self, input_scale: Tensor) -> Tensor | None:
        """Bias rounded to a multiple of ``input_scale * scale[c]``, what an int32 bias holds."""
        if self.bias is None or not self.enabled:
            return self.bias
        step = input_scale.detach() * channel_scale_shape(self.scale.detach(), self.spec, self.bias)
        return snap_to_grid(self.bias, step)

    def forward(self, x: Tensor, input_log_scale: Tensor) -> Tensor:
        """Apply the layer to a fake-quantized input; the logarithm of its scale has shape []."""
        weight = self.quantized_weight() if self.enabled else self.weight
        return self.spec.apply(x, weight, self.snapped_bias(input_log_scale.exp()))


def channel_scale_shape(scale: Tensor, spec: LayerSpec, bias: Tensor) -> Tensor:
    """Weight scale of every output channel, ``[C_out]``.

    A grouped transposed convolution stores ``C_out / groups`` channels per group, which share
    their scales across the groups.
    """
    return scale if scale.numel() == bias.numel() else scale.repeat(spec.groups)


def set_enabled(student: nn.Module, enabled: bool) -> None:
    """Switch all fake quantization on or off: off, the student is the float network."""
    for module in student.modules():
        if isinstance(module, ActQuantizer | QuantizedLayer):
            module.enabled = enabled
