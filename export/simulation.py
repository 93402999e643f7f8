"""The student in double precision: every integer exact, every rounding that of the formula.

The training simulation adds products in float32, whose order differs between machines; here
sums of integers times scales are exact to 2**-52, so the only roundings are the quantizers' own.
"""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.export.session import batches_of
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer, QuantizedModel

__all__ = ["exact_logits"]


def exact_logits(model: QuantizedModel, images: Tensor) -> Tensor:
    """Logits float32 ``[N, classes]`` of normalised images ``[N, C, H, W]``."""
    interpreter = _Exact(model.graph)
    with torch.no_grad():
        parts = [interpreter.run(batch) for batch in batches_of(images)]
    return torch.cat(parts).to(torch.float32)


class _Exact(fx.Interpreter):
    """Runs quantizers and layers in float64; other operators follow the type of their input."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the two kinds of modules of a frozen student."""
        module = self.fetch_attr(str(target))
        if isinstance(module, FrozenQuantizer):
            return _quantize(module, args[0])
        if isinstance(module, FrozenLayer):
            return _apply(module, args[0])
        return super().call_module(target, args, kwargs)


def _quantize(quantizer: FrozenQuantizer, x: Tensor) -> Tensor:
    qparams = quantizer.qparams
    scale, zero_point = qparams.scale.double(), qparams.zero_point.double()
    # An image arrives as float32, and a runtime divides it in float32.
    steps = x / scale.to(x.dtype)
    q = torch.clamp(torch.round(steps).double() + zero_point, qparams.qmin, qparams.qmax)
    return (q - zero_point) * scale


def _apply(layer: FrozenLayer, x: Tensor) -> Tensor:
    shape = [1] * layer.weight_q.dim()
    shape[layer.spec.channel_axis] = -1
    weight = layer.weight_q.double() * layer.weight_scale.double().reshape(shape)
    bias = None if layer.bias is None else layer.bias.double()
    return layer.spec.apply(x.double(), weight, bias)
