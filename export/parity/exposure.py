"""What flows inside a form of the student: the integers of every quantizer, and where they part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from lrq_deploy.export.parity.reference import Reference, call_labels
from lrq_deploy.export.parity.simulation import ExactInterpreter
from lrq_deploy.export.runtime.session import OptimizationLevel, open_session
from lrq_deploy.student.frozen import QuantizedModel

__all__ = [
    "Divergence",
    "Trace",
    "exact_trace",
    "first_divergence",
    "onnx_trace",
    "reference_trace",
    "torch_trace",
]

Trace = Mapping[str, NDArray[Any]]
"""Centred integers ``q - zero_point`` of quantizer calls, by the labels of ``call_labels``."""


@dataclass(frozen=True)
class Divergence:
    """The first place where two forms differ.

    Attributes:
        tensor: label of the quantizer call.
        layers: the weighted layers whose result it stores, empty for the input image.
        share: of the integers of that tensor that differ, 0..1.
        steps: largest difference, in integers.
    """

    tensor: str
    layers: tuple[str, ...]
    share: float
    steps: int

    def describe(self) -> str:
        """For instance ``layers.conv1 -> quantizers.relu: 0.1 % of the integers, by up to 1``."""
        source = ", ".join(self.layers) or "the input"
        return f"{source} -> {self.tensor}: {100 * self.share:.2g} % off by up to {self.steps}"


def exact_trace(model: QuantizedModel, images: Tensor) -> Trace:
    """Of the student with exact sums."""
    return _recorded(_ExactRecorder(model), model, images)


def torch_trace(model: QuantizedModel, images: Tensor) -> Trace:
    """Of the training simulation."""
    return _recorded(_Recorder(model.graph), model, images)


def reference_trace(model: QuantizedModel, images: Tensor) -> Trace:
    """Of the numpy reference.

    Raises:
        UnknownOperatorError: the reference does not know an operator of the graph.
    """
    reference = Reference(model)
    reference.run(images.detach().cpu().numpy())
    return reference.trace


def onnx_trace(
    model: QuantizedModel, path: Path, images: Tensor, level: OptimizationLevel, threads: int = 1
) -> Trace:
    """Of a graph in ONNX Runtime; quantizers that the dialect left out are missing.

    The stored integers become outputs of the graph. They are what fused kernels write anyway,
    so the same kernels run.

    Raises:
        ExportError: the runtime does not accept the graph.
    """
    proto = onnx.load(path)
    made = {name for node in proto.graph.node for name in node.output}
    names: dict[str, str] = {}
    for label in call_labels(model).values():
        stored = [n for n in (f"{label}.stored", f"{label}.rounded") if n in made]
        if stored:
            names[label] = stored[0]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
    session = open_session(proto.SerializeToString(), threads, level)
    array = np.ascontiguousarray(images.detach().cpu().numpy(), np.float32)
    arrays = session.runtime.run(list(names.values()), {"input": array})
    zero_points = _zero_points(proto.graph)
    return {
        label: array.astype(np.int64) - zero_points[name]
        for (label, name), array in zip(names.items(), arrays, strict=True)
    }


def first_divergence(model: QuantizedModel, a: Trace, b: Trace) -> Divergence | None:
    """The first quantizer call, in graph order, whose integers differ; None if none does."""
    for node, label in call_labels(model).items():
        # Dialects may keep the dimensions of a pooled tensor.
        if label not in a or label not in b or a[label].size != b[label].size:
            continue
        difference = np.abs(a[label].astype(np.int64).ravel() - b[label].astype(np.int64).ravel())
        if difference.any():
            share = float(np.count_nonzero(difference) / difference.size)
            return Divergence(label, _layers_before(model, node), share, int(difference.max()))
    return None


class _Recorder(fx.Interpreter):
    """Keeps the result of every node."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.results: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run and keep."""
        self.results[n.name] = super().run_node(n)
        return self.results[n.name]


class _ExactRecorder(_Recorder, ExactInterpreter):
    """The same with exact sums."""


def _recorded(recorder: _Recorder, model: QuantizedModel, images: Tensor) -> Trace:
    with torch.no_grad():
        recorder.run(images)
    trace: dict[str, NDArray[Any]] = {}
    for node, label in call_labels(model).items():
        scale = model.table[str(node.target)].scale.double()
        trace[label] = (
            torch.round(recorder.results[node.name].double() / scale).numpy().astype(np.int64)
        )
    return trace


def _zero_points(graph: onnx.GraphProto) -> dict[str, int]:
    """What zero is stored as, of the results of quantizers and of the limits behind them."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            found[node.output[0]] = int(onnx.numpy_helper.to_array(constants[node.input[2]]))
        elif node.op_type == "Clip" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _layers_before(model: QuantizedModel, node: fx.Node) -> tuple[str, ...]:
    """The nearest weighted layers above a quantizer, without passing another quantizer."""
    found: list[str] = []
    waiting, seen = list(node.all_input_nodes), set[fx.Node]()
    labels = call_labels(model)
    while waiting:
        current = waiting.pop(0)
        if current in seen or current in labels:
            continue
        seen.add(current)
        if current.op == "call_module":
            found.append(str(current.target))
        else:
            waiting.extend(current.all_input_nodes)
    return tuple(found)
