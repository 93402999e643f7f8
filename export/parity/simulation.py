"""The student with exact sums: the only roundings are those of its quantizers.

The training simulation adds float32 products, whose rounding differs with the order of the sum.
Here a layer sums integers. Sums below 2**24 are exact in float32 in any order, so the fast
float32 kernels are used where the bound ``sum |w| * max |x|`` allows it, float64 ones elsewhere;
everything between layers is float64.
"""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.export.runtime.session import batches_of
from lrq_deploy.qparams import QParams, per_channel
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer, QuantizedModel

__all__ = ["ExactInterpreter", "exact_logits"]

_EXACT_IN_FLOAT32 = 2.0**24


def exact_logits(model: QuantizedModel, images: Tensor) -> Tensor:
    """Logits float32 ``[N, classes]`` of normalised images ``[N, C, H, W]``."""
    interpreter = ExactInterpreter(model)
    with torch.no_grad():
        parts = [interpreter.run(batch) for batch in batches_of(images)]
    return torch.cat(parts).to(torch.float32)


class ExactInterpreter(fx.Interpreter):
    """Runs quantizers and layers exactly; other operators follow the type of their input."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__(model.graph)
        self._table = model.table

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Constants are float32 and follow; not every operator promotes types by itself."""
        operands: list[Any] = []
        fx.node.map_aggregate(args, operands.append)
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in operands):
            args = fx.node.map_aggregate(args, _as_double)
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the two kinds of modules of a frozen student."""
        module = self.fetch_attr(str(target))
        if isinstance(module, FrozenQuantizer):
            return _quantize(module, args[0])
        if isinstance(module, FrozenLayer):
            return _apply(module, args[0], self._table[module.input_quantizer])
        return super().call_module(target, args, kwargs)


def _as_double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _quantize(quantizer: FrozenQuantizer, x: Tensor) -> Tensor:
    qparams = quantizer.qparams
    scale, zero_point = qparams.scale.double(), qparams.zero_point.double()
    # An image arrives as float32, and a runtime divides it in float32.
    steps = x / scale.to(x.dtype)
    q = torch.clamp(torch.round(steps).double() + zero_point, qparams.qmin, qparams.qmax)
    return (q - zero_point) * scale


def _apply(layer: FrozenLayer, x: Tensor, source: QParams) -> Tensor:
    scale_x, scale_w = source.scale.double(), layer.weight_scale.double()
    integers = torch.round(x / scale_x)
    zero_point = int(source.zero_point)
    largest = max(source.qmax - zero_point, zero_point - source.qmin)
    # Every output meets at most all the weights that share its output channel.
    rows = layer.weight_q.double().transpose(0, layer.spec.channel_axis).flatten(1)
    exact = float(rows.abs().sum(1).max()) * largest < _EXACT_IN_FLOAT32
    kind = torch.float32 if exact else torch.float64
    total = layer.spec.apply(integers.to(kind), layer.weight_q.to(kind), None).double()
    channel_axis = -1 if layer.spec.kind == "linear" else 1
    step = scale_x * scale_w.repeat(total.shape[channel_axis] // scale_w.numel())
    if layer.bias is not None:
        bias = torch.round(layer.bias.double() / step)
        total = total + per_channel(bias, channel_axis, total.dim())
    return total * per_channel(step, channel_axis, total.dim())
