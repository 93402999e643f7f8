"""Small frozen students, built node by node with ranges taken from the values that flow through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.qparams import QParams, ScaleTable
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer, QuantizedModel
from lrq_deploy.teacher import Preprocessing

aten = torch.ops.aten


@dataclass(frozen=True)
class Value:
    """A node and the values it has on the sample; ``source`` names its quantizer, if any."""

    node: fx.Node
    data: Tensor
    source: str = ""


class FrozenGraphBuilder:
    """Builds a frozen graph and runs it on a sample at the same time.

    Args:
        sample: input ``[N, C, H, W]`` whose values set the ranges.
        seed: of the random weights.
    """

    def __init__(self, sample: Tensor, seed: int = 0) -> None:
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._root.add_module("quantizers", nn.Module())
        self._root.add_module("layers", nn.Module())
        self._entries: dict[str, QParams] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._sample = sample
        self.input = Value(self._graph.placeholder("input"), sample)

    def quantize(
        self,
        x: Value,
        bits: int = 8,
        asymmetric: bool = False,
        limits: tuple[int, int] | None = None,
    ) -> Value:
        """Quantizer with the range of ``x``; ``limits`` overrides the integers."""
        low, high = min(float(x.data.min()), 0.0), max(float(x.data.max()), 1e-3)
        zero_point = 0
        if limits is not None:
            qmin, qmax = limits
            scale = max(high / max(qmax, 1), low / qmin if qmin else 0.0)
        elif asymmetric:
            qmin, qmax = 0, 2**bits - 1
            scale = (high - low) / qmax
            zero_point = round(-low / scale)
        elif low < 0:
            qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            scale = max(high, -low) / qmax
        else:
            qmin, qmax = 0, (127 if bits == 8 else 2**bits - 1)
            scale = high / qmax
        # A scale that divides the values exactly would make rounding ties the rule; learned
        # scales do not.
        return self.quantize_with(x, scale * 0.9371, zero_point, qmin, qmax, bits)

    def quantize_with(
        self, x: Value, scale: float, zero_point: int, qmin: int, qmax: int, bits: int
    ) -> Value:
        """Quantizer with stated parameters."""
        name = f"quantizers.q{len(self._entries)}"
        qparams = QParams(
            "activation",
            torch.tensor(scale),
            torch.tensor(zero_point, dtype=torch.int32),
            qmin,
            qmax,
            bits,
        )
        return self._module(name, FrozenQuantizer(qparams), qparams, x, source=name)

    def reuse(self, quantized: Value, x: Value) -> Value:
        """Call the quantizer of ``quantized`` once more, on ``x``."""
        module = self._root.get_submodule(quantized.source)
        node = self._graph.call_module(quantized.source, (x.node,))
        return Value(node, module(x.data), quantized.source)

    def layer(
        self,
        x: Value,
        out: int,
        kernel: int = 3,
        bits: int = 8,
        spec: LayerSpec | None = None,
        bias: bool = True,
    ) -> Value:
        """Convolution or linear layer with random integer weights on a quantized input."""
        spec = spec or LayerSpec("conv2d", padding=(kernel // 2, kernel // 2))
        fan = x.data.shape[1]
        shape = [out, fan] if spec.kind == "linear" else [out, fan // spec.groups, kernel, kernel]
        if spec.kind == "conv_transpose2d":
            shape = [fan, out // spec.groups, kernel, kernel]
        weight = torch.randn(shape, generator=self._generator)
        axis = spec.channel_axis
        weight = weight * (2.0 / max(weight.numel() / weight.shape[axis], 1)) ** 0.5
        qmax = 2 ** (bits - 1) - 1
        channels = weight.shape[axis]
        scale = weight.movedim(axis, 0).reshape(channels, -1).abs().amax(1) / qmax
        spread = scale.reshape([-1 if d == axis else 1 for d in range(weight.dim())])
        weight_q = torch.round(weight / spread).clamp(-qmax, qmax).to(torch.int8)
        name = f"layers.l{len(self._entries)}"
        qparams = QParams(
            "weight", scale, torch.zeros_like(scale, dtype=torch.int32), -qmax, qmax, bits, axis
        )
        bias_values = None
        if bias:
            step = (self._entries[x.source].scale * scale).to(torch.float32)
            raw = torch.randn(channels, generator=self._generator) * 0.2
            bias_values = torch.round(raw / step) * step
        layer = FrozenLayer(spec, qparams, x.source, weight_q, bias_values)
        return self._module(name, layer, qparams, x)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """ATen operator on values and constants; data movement keeps the quantizer's name."""
        flat = [a for a in args if isinstance(a, Value)]
        flat += [v for a in args if isinstance(a, list) for v in a if isinstance(v, Value)]
        nodes = fx.map_arg(_plain(args, "node"), lambda n: n)
        node = self._graph.call_function(target, tuple(nodes), kwargs)
        data = target(*_plain(args, "data"), **kwargs)
        sources = {v.source for v in flat}
        return Value(node, data, sources.pop() if len(sources) == 1 else "")

    def finish(self, output: Value, name: str = "hand-built") -> QuantizedModel:
        """Close the graph."""
        self._graph.output(output.node)
        graph = fx.GraphModule(self._root, self._graph)
        shape = tuple(self._sample.shape[1:])
        mean = (0.5,) * shape[0]
        return QuantizedModel(
            graph=graph,
            table=ScaleTable(self._entries),
            scheme=Scheme(),
            input_shape=shape,  # type: ignore[arg-type]
            num_classes=output.data.shape[1],
            preprocessing=Preprocessing(mean, mean),
            name=name,
            teacher_fingerprint="0" * 64,
        )

    def _module(
        self, name: str, module: nn.Module, qparams: QParams, x: Value, source: str = ""
    ) -> Value:
        folder, _, leaf = name.partition(".")
        self._root.get_submodule(folder).add_module(leaf, module)
        self._entries[name] = qparams
        return Value(self._graph.call_module(name, (x.node,)), module(x.data), source)


def _plain(value: Any, field: str) -> Any:
    if isinstance(value, Value):
        return getattr(value, field)
    if isinstance(value, list | tuple):
        return type(value)(_plain(v, field) for v in value)
    return value


def _sample(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.2


def residual_student(
    weight_bits: int = 4,
    act_bits: int = 4,
    edge_bits: int = 8,
    asymmetric: bool = False,
    blocks: tuple[int, ...] = (1, 1, 1),
    width: int = 8,
    side: int = 16,
    classes: int = 10,
    seed: int = 0,
) -> QuantizedModel:
    """CIFAR-style residual network with option-A shortcuts (strided slice and channel padding)."""
    b = FrozenGraphBuilder(_sample((8, 3, side, side), seed), seed)
    x = b.quantize(b.input, 8)
    x = b.layer(x, width, bits=edge_bits)
    x = b.quantize(x, act_bits, limits=_relu_limits(act_bits))
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            planes = width * 2**stage
            spec = LayerSpec("conv2d", stride=(stride, stride), padding=(1, 1))
            y = b.layer(x, planes, bits=weight_bits, spec=spec)
            y = b.quantize(y, act_bits, limits=_relu_limits(act_bits))
            y = b.quantize(b.layer(y, planes, bits=weight_bits), act_bits, asymmetric)
            if stride == 2:
                x = b.call(aten.slice.Tensor, x, 2, 0, 2**63 - 1, 2)
                x = b.call(aten.slice.Tensor, x, 3, 0, 2**63 - 1, 2)
                x = b.call(aten.constant_pad_nd.default, x, [0, 0, 0, 0, planes // 4, planes // 4])
            x = b.call(aten.add.Tensor, y, x)
            x = b.quantize(x, act_bits, limits=_relu_limits(act_bits))
    x = b.call(aten.mean.dim, x, [-1, -2], True)
    x = b.quantize(x, edge_bits)
    x = b.call(aten.view.default, x, [-1, x.data.shape[1]])
    x = b.layer(x, classes, bits=edge_bits, spec=LayerSpec("linear"))
    return b.finish(x, "residual")


def mobile_student(
    weight_bits: int = 8,
    act_bits: int = 8,
    asymmetric: bool = True,
    float_curves: bool = False,
    seed: int = 0,
) -> QuantizedModel:
    """Depthwise layers, hard-swish, a squeeze-excite gate, max pooling, one-sided padding.

    ``float_curves`` leaves out the quantizers in front of the curved activations.
    """
    b = FrozenGraphBuilder(_sample((8, 3, 24, 20), seed), seed)
    x = b.quantize(b.input, 8)
    x = b.call(aten.constant_pad_nd.default, x, [0, 1, 0, 1])
    spec = LayerSpec("conv2d", stride=(2, 2))
    x = b.layer(x, 8, bits=8, spec=spec)
    x = b.call(aten.hardswish.default, x if float_curves else b.quantize(x, 8))
    x = b.quantize(x, act_bits, asymmetric)
    depthwise = LayerSpec("conv2d", padding=(1, 1), groups=8)
    x = b.call(aten.relu.default, b.layer(x, 8, bits=weight_bits, spec=depthwise))
    x = b.quantize(x, act_bits)
    gate = b.quantize(b.call(aten.mean.dim, x, [2, 3], True), act_bits)
    gate = b.quantize(b.call(aten.relu.default, b.layer(gate, 4, 1, weight_bits)), act_bits)
    gate = b.layer(gate, 8, 1, weight_bits)
    gate = b.call(aten.hardsigmoid.default, gate if float_curves else b.quantize(gate, 8))
    gate = b.quantize(gate, act_bits)
    x = b.quantize(b.call(aten.mul.Tensor, x, gate), act_bits)
    x = b.quantize(b.layer(x, 12, 1, weight_bits), act_bits, asymmetric)
    x = b.call(aten.max_pool2d.default, x, [3, 3], [2, 2], [1, 1])
    x = b.quantize(b.call(aten.mean.dim, x, [-1, -2], True), act_bits, asymmetric)
    x = b.call(aten.view.default, x, [-1, 12])
    return b.finish(b.layer(x, 3, bits=8, spec=LayerSpec("linear")), "mobile")


def _relu_limits(bits: int) -> tuple[int, int]:
    return (0, 127) if bits == 8 else (0, 2**bits - 1)
