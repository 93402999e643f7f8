"""Trainable parts of a student: activation quantizers and weighted layers."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import per_channel
from lrq_deploy.scheme import IntegerRange
from lrq_deploy.student.bias_grid import snap_to_grid
from lrq_deploy.student.fake_quant import (
    fake_quantize_per_channel,
    fake_quantize_per_tensor,
)
from lrq_deploy.student.rounding import LearnedRounding

__all__ = [
    "ActQuantizer",
    "FloatMix",
    "QuantizedLayer",
    "channel_scale_shape",
    "float_twin",
    "is_quantizer",
    "set_enabled",
]


@dataclass(frozen=True)
class FloatMix:
    """Single values that stay float while a student learns (QDrop, arXiv 2203.05740).

    Attributes:
        share: of the values, 0..1; 1 leaves one in 256 quantized.
        random: chooses them anew at each call; on the device of the tensors.
    """

    share: float
    random: torch.Generator

    def __call__(self, quantized: Tensor, float_values: Tensor) -> Tensor:
        """``float_values`` in places, ``quantized`` elsewhere; both of one shape."""
        # Eight values share one random number: a draw per value would cost more than a convolution.
        words = torch.empty(
            -(-quantized.numel() // 8), dtype=torch.int64, device=quantized.device
        ).random_(-(2**63), None, generator=self.random)
        drawn = words.view(torch.uint8)[: quantized.numel()]
        chosen = drawn < min(round(self.share * 256), 255)
        if quantized.dim() == 4:
            n, c, h, w = quantized.shape
            chosen = chosen.view(n, h, w, c).permute(0, 3, 1, 2)
        # Exact at 0 and 1, and a tenth of the time of torch.where on a CPU.
        return torch.lerp(quantized, float_values, chosen.view(quantized.shape).to(quantized.dtype))


FINE_LEVELS = 128
"""Levels of an activation from which its range has headroom: 0..127 and more."""


class ActQuantizer(nn.Module):
    """Per-tensor fake quantizer of an activation, with a learned step where it is coarse.

    Attributes:
        log_scale: natural logarithm of the scale, shape ``[]``, so that a step of the optimiser
            is relative and the scale stays above 0.
        zero_point: integer in ``qmin..qmax``, or 0.
        bounds: smallest and largest stored integer.
        bits: nominal width.
        signed: whether the tensor may be negative.
        known_range: smallest and largest value where known beforehand (an image), else None.
        carrier_qmax: largest integer that its runtimes hold, see ``TargetDescription``.
        float_mix: leaves single values float while gradients are taken; None quantizes all.
    """

    def __init__(
        self,
        bounds: IntegerRange,
        bits: int,
        signed: bool,
        known_range: tuple[float, float] | None = None,
        carrier_qmax: int = 127,
    ) -> None:
        super().__init__()
        self.bounds = bounds
        self.bits = bits
        self.signed = signed
        self.known_range = known_range
        self.carrier_qmax = carrier_qmax
        self.zero_point = 0
        self.enabled = True
        self.float_mix: FloatMix | None = None
        self.log_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        """Scale of the integers, shape ``[]``, above 0."""
        return self.log_scale.exp()

    @property
    def fine(self) -> bool:
        """Whether steps are so small that clipping costs more than rounding."""
        return self.bounds.levels >= FINE_LEVELS

    @property
    def learns(self) -> bool:
        """Whether training moves the scale.

        Not where the range is known, and not where it is fine: synthetic images do not reach as
        far as real ones, and would pull it in.
        """
        return self.known_range is None and not self.fine

    def set_range(
        self, scale: float, zero_point: int = 0, bounds: IntegerRange | None = None
    ) -> None:
        """Start from a calibrated scale and zero point; the bounds stay unless some are given."""
        with torch.no_grad():
            self.log_scale.fill_(float(torch.tensor(scale, dtype=torch.float64).log()))
        self.zero_point = zero_point
        self.bounds = bounds or self.bounds

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``; the shape stays. Disabled, it only clips what has no sign."""
        if not self.enabled:
            return x if self.signed else torch.relu(x)
        quantized = fake_quantize_per_tensor(
            x, self.scale, self.zero_point, self.bounds.qmin, self.bounds.qmax
        )
        if self.float_mix is None or not torch.is_grad_enabled():
            return quantized
        return self.float_mix(quantized, x if self.signed else torch.relu(x))


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
        rounding: chooses the integers while it is there; None rounds to the nearest.
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
        self.rounding: LearnedRounding | None = None
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
        """Fake-quantized weight, differentiable in what is learned of it, and in the scale."""
        if self.rounding is not None:
            return self._stepped(self.rounding.integers())
        return fake_quantize_per_channel(
            self.weight, self.scale, self.spec.channel_axis, self.bounds.qmin, self.bounds.qmax
        )

    def learn_rounding(self) -> LearnedRounding:
        """Start to learn which way each weight is rounded."""
        self.rounding = LearnedRounding(self.weight, self._broadcast_scale())
        return self.rounding

    @torch.no_grad()
    def settled_weight(self) -> Tensor:
        """The weights at the integers that were chosen so far, where the rounding is learned."""
        if self.rounding is None:
            return self.weight
        return self._stepped(self.rounding.settled())

    @torch.no_grad()
    def settle_rounding(self, weight: Tensor) -> None:
        """Take ``settled_weight`` as it was, and stop to learn the rounding."""
        self.weight.copy_(weight)
        self.rounding = None

    def _stepped(self, integers: Tensor) -> Tensor:
        return integers.clamp(self.bounds.qmin, self.bounds.qmax) * self._broadcast_scale()

    def _broadcast_scale(self) -> Tensor:
        return per_channel(self.scale, self.spec.channel_axis, self.weight.dim())

    def snapped_bias(self, input_scale: Tensor) -> Tensor | None:
        """Bias rounded to a multiple of ``input_scale * scale[c]``, what an int32 bias holds."""
        if self.bias is None or not self.enabled:
            return self.bias
        step = input_scale.detach() * channel_scale_shape(self.scale.detach(), self.spec, self.bias)
        return snap_to_grid(self.bias, step)

    def forward(self, x: Tensor, input_log_scale: Tensor) -> Tensor:
        """Apply the layer to a fake-quantized input; the logarithm of its scale has shape []."""
        weight = self.quantized_weight() if self.enabled else self.weight
        return self.spec.apply(x, weight, self.snapped_bias(input_log_scale.detach().exp()))


def channel_scale_shape(scale: Tensor, spec: LayerSpec, bias: Tensor) -> Tensor:
    """Weight scale of every output channel, ``[C_out]``.

    A grouped transposed convolution stores ``C_out / groups`` channels per group, which share
    their scales across the groups.
    """
    return scale if scale.numel() == bias.numel() else scale.repeat(spec.groups)


def is_quantizer(student: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` calls an activation quantizer of ``student``."""
    return isinstance(called_module(student, node), ActQuantizer)


def set_enabled(student: nn.Module, enabled: bool) -> None:
    """Switch all fake quantization on or off: off, the student is the float network."""
    for module in student.modules():
        if isinstance(module, ActQuantizer | QuantizedLayer):
            module.enabled = enabled


def float_twin(student: fx.GraphModule) -> fx.GraphModule:
    """The float network of a student that has not learned yet, with its names; constant."""
    twin = copy.deepcopy(student)
    set_enabled(twin, False)
    twin.requires_grad_(False)
    return twin
