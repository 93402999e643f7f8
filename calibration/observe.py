"""Calibration: give every quantizer and layer of a student its first scale."""

import math
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.calibration.act_range import fit_act_range
from lrq_deploy.calibration.ranges import full_weight_scale, search_weight_scale
from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.graph.gates import HARD_SWISH_REACH
from lrq_deploy.graph.operators import AVERAGES, is_call, tensor_inputs
from lrq_deploy.graph.roles import sources_of
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.student.ranges import largest_values

__all__ = ["calibrate", "read_by_hard_swish", "sample_activations"]

aten = torch.ops.aten

SAMPLE_SIZE = 131_072
"""Values kept per tensor: enough for a stable search, small enough to keep in memory."""

AT_ONCE = 64
"""Images of one pass."""

HEADROOM = 1.2
"""How far a fine range goes beyond the searched one: real images reach further than synthetic
ones, and a fifth of a fine step costs less than clipping them (docs/decisions.md)."""

FINEST_SPLIT = 16
"""Least steps of the gate's half that move a scale by at most a thirty-second."""

BIAS_LIMIT = 2.0**28
"""Largest first bias in integer steps: room for sums, and for scales that shrink in training."""


def calibrate(
    student: fx.GraphModule, images: Tensor, symmetric: bool, seed: int, search: bool = True
) -> None:
    """Set all scales of ``student`` in place, by range search or by smallest and largest value.

    Weights are searched per output channel. Activations are those of the float network on
    ``images`` ``[N, C, H, W]``, sampled at random by ``seed``; without ``search`` nothing is
    clipped, and the sample is not needed.
    """
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            axis = module.spec.channel_axis
            scale_of = search_weight_scale if search else full_weight_scale
            module.set_scale(scale_of(module.weight, axis, module.bounds))
    set_enabled(student, False)
    samples = sample_activations(student, images, seed, SAMPLE_SIZE if search else None)
    set_enabled(student, True)
    largest, gated = _largest_received(student), read_by_hard_swish(student)
    for path, values in samples.items():
        quantizer = student.get_submodule(path)
        if isinstance(quantizer, ActQuantizer):
            fitted = fit_act_range(quantizer, values, quantizer.bounds, symmetric, search)
            scale = fitted.scale
            if search and quantizer.fine and quantizer.known_range is None:
                scale = _with_headroom(scale, quantizer, largest[path])
            if quantizer.fine and path in gated:
                scale = _dividing_three(scale)
            quantizer.set_range(scale, fitted.zero_point, fitted.bounds)
    _keep_averages_coarse(student, images[:1])
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            _make_room_for_bias(student, module)


def sample_activations(
    student: fx.GraphModule, images: Tensor, seed: int, count: int | None = SAMPLE_SIZE
) -> dict[str, Tensor]:
    """About ``count`` random values, flat, of what each quantizer receives, by its path.

    Args:
        student: run as it is: for the values of the float network, switch its quantizers off.
        images: normalised ``[N, C, H, W]``.
        seed: of the sample.
        count: at most this many values per quantizer; None keeps the smallest and the largest
            of each batch instead.
    """
    return _Observer(student, seed, count).observe(images)


def _with_headroom(scale: float, quantizer: ActQuantizer, largest: float) -> float:
    """The scale of a fine range for images unlike ours, which a ReLU6 lets reach no further."""
    enough = math.inf if quantizer.signed else largest / quantizer.bounds.qmax
    return max(scale, min(scale * HEADROOM, enough))


def _largest_received(student: fx.GraphModule) -> dict[str, float]:
    """What no value that a quantizer receives exceeds, infinity where nothing says so."""
    stated = largest_values(student)
    found: dict[str, float] = {}
    for node in student.graph.nodes:
        if node.op == "call_module":
            received = stated.get(node.args[0], math.inf)
            found[str(node.target)] = max(found.get(str(node.target), received), received)
    return found


def read_by_hard_swish(student: fx.GraphModule) -> set[str]:
    """Paths of the quantizers whose values a hard-swish reads, behind data movement too."""
    gates = [node for node in student.graph.nodes if is_call(node, {aten.hardswish.default})]
    read = [source for gate in gates for part in tensor_inputs(gate) for source in sources_of(part)]
    return {str(source.target) for source in read if source.op == "call_module"}


def _keep_averages_coarse(student: fx.GraphModule, image: Tensor) -> None:
    """Widen scales below that of an average's input divided by the count of values.

    There is no finer average, and ONNX Runtime's kernel refuses those that are much finer: of
    normalised maps the averages are 0 but for rounding.
    """
    counts = _AveragedValues(student)
    counts.run(image)
    for node, count in counts.found.items():
        read = sources_of(node.all_input_nodes[0])[0]
        for reader in node.users:
            source, quantizer = called_module(student, read), called_module(student, reader)
            if isinstance(source, ActQuantizer) and isinstance(quantizer, ActQuantizer):
                finest = float(source.scale.detach()) / count
                if float(quantizer.scale.detach()) < finest:
                    quantizer.set_range(finest, quantizer.zero_point, quantizer.bounds)


def _dividing_three(scale: float) -> float:
    """The nearest scale of which 3 is a multiple, so that the gate's ends are integers.

    ONNX Runtime then has integer kernels for a hard-swish (export/passes/curved_activations.py).
    """
    steps = round(HARD_SWISH_REACH / scale)
    return HARD_SWISH_REACH / steps if steps >= FINEST_SPLIT else scale


def _make_room_for_bias(student: fx.GraphModule, layer: QuantizedLayer) -> None:
    """Widen scales so small that the int32 bias on their grid would overflow.

    Channels whose weights are (nearly) 0 while BatchNorm's shift is not.
    """
    quantizer = student.get_submodule(layer.input_quantizer)
    if layer.bias is None or not isinstance(quantizer, ActQuantizer):
        return
    smallest = layer.bias.detach().abs() / (quantizer.scale.detach() * BIAS_LIMIT)
    channels = layer.scale.numel()
    layer.set_scale(layer.scale.detach().maximum(smallest.reshape(-1, channels).amax(0)))


class _AveragedValues(fx.Interpreter):
    """Runs a student and counts the values in each average."""

    def __init__(self, student: fx.GraphModule) -> None:
        super().__init__(student)
        self.found: dict[fx.Node, int] = {}

    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        """Compute ``n``."""
        result = super().run_node(n)
        if is_call(n, {aten.avg_pool2d.default}):
            sides: Any = n.args[1]
            self.found[n] = int(sides[0] * sides[-1])
        elif is_call(n, AVERAGES):
            before = self.env[n.all_input_nodes[0]].numel()
            # An adaptive pooling may also enlarge.
            self.found[n] = max(int(before // result.numel()), 1)
        return result


class _Observer(fx.Interpreter):
    """Runs a student and keeps a random sample of what each quantizer receives."""

    def __init__(self, student: fx.GraphModule, seed: int, count: int | None) -> None:
        super().__init__(student)
        self._count = count
        self._random = torch.Generator().manual_seed(seed)
        self._samples: dict[str, list[Tensor]] = {}
        self._batches = 1

    def observe(self, images: Tensor) -> dict[str, Tensor]:
        """Flat sample per quantizer path."""
        batches = images.split(AT_ONCE)
        self._batches = len(batches)
        with torch.no_grad():
            for batch in batches:
                self.run(batch)
        return {path: torch.cat(parts) for path, parts in self._samples.items()}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.module.get_submodule(target)
        result = super().call_module(target, args, kwargs)
        if isinstance(module, ActQuantizer):
            values = result.flatten()
            if self._count is None:
                values = torch.stack([*values.aminmax()])
            elif (wanted := self._count // self._batches) < values.numel():
                index = torch.randint(values.numel(), (wanted,), generator=self._random)
                values = values[index.to(values.device)]
            self._samples.setdefault(target, []).append(values)
        return result
