"""Whether ONNX operators compute what torch's do: a student without quantizers, in both."""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from lrq_deploy.errors import ExportError
from lrq_deploy.export.float_twin import Replaced, WithoutQuantizersPass, image_sign
from lrq_deploy.export.missing_form import place_of
from lrq_deploy.export.onnx_graph import finish
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.capture import example_input
from lrq_deploy.graph.clipping import Limits
from lrq_deploy.student.frozen import FrozenQuantizer, QuantizedModel

__all__ = ["check_operators"]

_OF_SPREAD, _OF_SIZE = 1e-2, 1e-4
"""What two sums in other orders may differ by, as a share of how far values spread and how large
they are (root mean squares). A step of 8 bits is about as coarse as the first; twelve
networks of random weights stayed within 4e-4 of the sum of both."""

_OF_LARGEST = 1e-5
"""The same of the largest values so far, as averages of normalised maps are 0 but for rounding."""

Call = tuple[str, int]
"""A quantizer, and how often it was called before."""

_LOGITS: Call = ("logits", 0)
_NO_OPERATORS = {operator.getitem, torch.ops.aten.sym_size.int}
_NAMED = 3


def check_operators(model: QuantizedModel, neutral: ir.Model) -> None:
    """Compare what every quantizer would read, and the logits, on two images of noise.

    Args:
        model: the student; its weights are read as they are stored.
        neutral: ``neutral_graph(model)``; stays as it is.

    Raises:
        ExportError: they differ; names the operators in front of the first tensor that does.
    """
    graph = neutral.clone()
    without = WithoutQuantizersPass(image_sign(model))
    without(graph)
    calls = _numbered(without.replaced)
    images = _noise(model)
    theirs = _onnx_values(graph, {call: each.value for call, each in calls.items()}, images)
    recorder = _FloatRecorder(model, {call: each.limits for call, each in calls.items()})
    with torch.no_grad():
        recorder.run(images)
    largest = 0.0
    for call, (node, value) in recorder.recorded.items():
        largest = max(largest, _size(value[value.isfinite()].double().numpy()))
        error = _error(value, theirs[call], _OF_LARGEST * largest) if call in theirs else 0.0
        if error:
            raise ExportError(
                "the ONNX form of every operator must compute what torch does",
                f"values off by {100 * error:.2g} % of their spread behind {_operators(node)}",
                "replace the operator in the network (a resize: give it a size, not a factor), or "
                "report it with the network's name",
            )


def _numbered(replaced: Iterable[Replaced]) -> dict[Call, Replaced]:
    counts: Counter[str] = Counter()
    found: dict[Call, Replaced] = {}
    for each in replaced:
        found[each.quantizer, counts[each.quantizer]] = each
        counts[each.quantizer] += 1
    return found


class _FloatRecorder(fx.Interpreter):
    """Clips where a quantizer stood, and keeps the result with that of the network."""

    def __init__(self, model: QuantizedModel, limits: Mapping[Call, Limits]) -> None:
        super().__init__(model.graph)
        self._limits = limits
        self._counts: Counter[str] = Counter()
        self.recorded: dict[Call, tuple[fx.Node, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run, and keep what a quantizer reads."""
        if n.op == "output":
            self.recorded[_LOGITS] = n, super().run_node(n)
            return self.recorded[_LOGITS][1]
        path = str(n.target)
        if n.op != "call_module" or not isinstance(self.fetch_attr(path), FrozenQuantizer):
            return super().run_node(n)
        call = path, self._counts[path]
        self._counts[path] += 1
        (x,), _ = self.fetch_args_kwargs_from_env(n)
        low, high = self._limits[call]
        clipped = x if low is None and high is None else torch.clamp(x, low, high)
        self.recorded[call] = n, clipped
        return clipped


def _noise(model: QuantizedModel) -> Tensor:
    """Two images of any values that the input may have."""
    images = example_input(model.input_shape)
    if not model.preprocessing.known:
        return images
    bounds = torch.tensor(model.preprocessing.bounds())[:, :, None, None]
    return torch.lerp(bounds[:, 0], bounds[:, 1], torch.special.ndtr(images))


def _onnx_values(
    graph: ir.Model, values: Mapping[Call, ir.Value], images: Tensor
) -> dict[Call, NDArray[Any]]:
    """Those that the graph computes, and the logits."""
    names = {_LOGITS: "logits"}
    for call, value in values.items():
        if value.producer() is not None:
            names[call] = str(value.name)
            if value not in graph.graph.outputs:
                graph.graph.outputs.append(value)
    session = open_session(finish(graph, {"lrq_target": "float"}).SerializeToString(), level="off")
    wanted = sorted(set(names.values()))
    found = dict(zip(wanted, session.runtime.run(wanted, {"input": images.numpy()}), strict=True))
    return {call: found[name] for call, name in names.items()}


def _error(ours: Tensor, theirs: NDArray[Any], noise: float) -> float:
    """The difference as a share of the spread, 0 where it is within the bounds and ``noise``."""
    known = ours.double().numpy().ravel()
    if theirs.size != known.size:
        return float("inf")
    finite = np.isfinite(known)
    known, found = known[finite], theirs.astype(np.float64).ravel()[finite]
    if not known.size:
        return 0.0
    difference, spread = _size(found - known), float(known.std())
    # Written so that NaN counts as a difference.
    if difference <= _OF_SPREAD * spread + _OF_SIZE * _size(known) + noise:
        return 0.0
    return difference / max(spread, np.finfo(np.float64).tiny)


def _size(values: NDArray[Any]) -> float:
    """Root mean square, 0 of nothing."""
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _operators(node: fx.Node) -> str:
    """What was computed since the nearest quantizers, with file and line where they are known."""
    found = [f"{part.target}{place_of(part)}" for part in _since_quantizers(node)]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


def _since_quantizers(node: fx.Node) -> list[fx.Node]:
    """Operators above a node, or else layers, up to the quantizers."""
    waiting, seen = list(node.all_input_nodes), set[fx.Node]()
    operators: list[fx.Node] = []
    layers: list[fx.Node] = []
    while waiting:
        current = waiting.pop()
        if current in seen or str(current.target).startswith("quantizers."):
            continue
        seen.add(current)
        if current.op == "call_module":
            layers.append(current)
        elif current.op == "call_function" and current.target not in _NO_OPERATORS:
            operators.append(current)
        waiting.extend(current.all_input_nodes)
    return operators or layers
