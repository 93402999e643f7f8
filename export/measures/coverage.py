"""Which layers ONNX Runtime really computes in integers, read from its optimised graph."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.strays import stray_products
from lrq_deploy.student.frozen import FloatLayer, QuantizedModel
from lrq_deploy.student.layer_costs import layer_costs
from lrq_deploy.student.weight_only import WeightOnlyLayer
from lrq_deploy.student.weighted import WeightedLayer, weighted_layers

__all__ = [
    "KEPT_FLOAT",
    "WEIGHT_ONLY",
    "Coverage",
    "LayerCoverage",
    "audit",
    "kept_reason",
    "strays",
]

_INTEGER_KERNELS = frozenset(
    {"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"}
)
_FLOAT_KERNELS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "DynamicQuantizeMatMul",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
    }
)
WEIGHT_ONLY = "--int4-linear keeps its input in float; its weights are INT4"
KEPT_FLOAT = "--depthwise float keeps it so; quantize with --depthwise int8 to compare"
_STRAY = (
    "it multiplies by stored numbers and is no layer that has integers; write it as a Conv2d or "
    "Linear, or report it with the network's name"
)

_CARRIERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class LayerCoverage:
    """How one weighted layer runs.

    Attributes:
        name: in the scale table, or of the operator in the graph where it is no layer.
        kind: operator of the student.
        multiply_adds: for one image.
        integer: whether an integer kernel runs it.
        kernel: operator of the optimised graph, empty where none was found.
        reason: why it runs in float, and the remedy; empty for integer layers.
    """

    name: str
    kind: str
    multiply_adds: int
    integer: bool
    kernel: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Audit of one graph.

    Attributes:
        layers: in graph order, and behind them what multiplies by stored numbers and is none.
        float_operators: how many other operators of each type work on floats.
    """

    layers: tuple[LayerCoverage, ...]
    float_operators: dict[str, int]

    @property
    def layer_share(self) -> float:
        """Share of the layers that run in integers, 0..1; 1 for a network without layers."""
        return sum(layer.integer for layer in self.layers) / max(len(self.layers), 1)

    @property
    def share(self) -> float:
        """Share of the multiply-adds that run in integers, 0..1; 1 where there are none."""
        total = sum(layer.multiply_adds for layer in self.layers)
        return sum(x.multiply_adds for x in self.layers if x.integer) / total if total else 1.0

    @property
    def wanted_share(self) -> float:
        """The same among the layers that the scheme does not keep in float."""
        kept = (KEPT_FLOAT, WEIGHT_ONLY)
        return Coverage(tuple(x for x in self.layers if x.reason not in kept), {}).share

    @property
    def fallbacks(self) -> tuple[LayerCoverage, ...]:
        """The layers that run in float."""
        return tuple(layer for layer in self.layers if not layer.integer)

    def to_json(self) -> dict[str, Any]:
        """Plain values with both shares."""
        return {
            "integer_share": self.share,
            "integer_layer_share": self.layer_share,
            "float_operators": self.float_operators,
            "layers": [asdict(layer) for layer in self.layers],
        }


def audit(model: QuantizedModel, onnx_model: Path | bytes) -> Coverage:
    """Load the graph with all optimisations on and look at what it became.

    Raises:
        ExportError: ONNX Runtime does not accept the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        open_session(onnx_model, optimized=optimized)
        graph = onnx.load(optimized).graph
    reader = _OptimizedGraph(graph)
    costs = layer_costs(model.graph, model.input_shape)
    layers = tuple(
        _layer(name, layer, costs[name].multiply_adds, reader)
        for name, layer in weighted_layers(model).items()
    )
    return Coverage(layers + strays(model), reader.float_operators())


def strays(model: QuantizedModel) -> tuple[LayerCoverage, ...]:
    """Operators that multiply by stored numbers as layers do and were not recognised as one."""
    return tuple(
        LayerCoverage(node.name, str(node.target), count, False, "", _STRAY)
        for node, count in stray_products(model.graph, model.input_shape).items()
    )


class _OptimizedGraph:
    """Look-ups in a graph that ONNX Runtime wrote."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._nodes = list(graph.node)
        self._types: dict[str, int] = {x.name: x.data_type for x in graph.initializer}
        self._types.update((x.name, x.type.tensor_type.elem_type) for x in graph.input)
        for node in self._nodes:
            element_type = self._element_type(node)
            self._types.update((name, element_type) for name in node.output)

    def kernels_of(self, layer: str) -> list[onnx.NodeProto]:
        """Multiplying nodes whose weight comes from an initializer of the layer."""
        kernels = _INTEGER_KERNELS | _FLOAT_KERNELS
        return [
            node
            for node in self._nodes
            if node.op_type in kernels
            and any(self._origin(name).startswith(f"{layer}.weight") for name in node.input)
        ]

    def float_operators(self) -> dict[str, int]:
        """Operators on floats, apart from layers and the change between carriers."""
        found: dict[str, int] = {}
        for node in self._nodes:
            skipped = node.op_type in _INTEGER_KERNELS | _FLOAT_KERNELS or node.op_type in _CARRIERS
            if not skipped and self._types.get(node.input[0]) == onnx.TensorProto.FLOAT:
                found[node.op_type] = found.get(node.op_type, 0) + 1
        return dict(sorted(found.items()))

    def _origin(self, name: str) -> str:
        """Walk up from an operand to the constant it is made of."""
        while (node := self.producers.get(name)) is not None and node.op_type in (
            "Cast",
            "DequantizeLinear",
            "Transpose",
        ):
            name = node.input[0]
        return name

    def _element_type(self, node: onnx.NodeProto) -> int:
        """Type of the first output; enough to tell floats from integers."""
        if node.op_type == "DequantizeLinear" or (node.op_type == "QGemm" and len(node.input) < 8):
            return int(onnx.TensorProto.FLOAT)
        if node.op_type == "QuantizeLinear":
            return self._types.get(node.input[2], int(onnx.TensorProto.UINT8))
        return self._types.get(node.input[0], int(onnx.TensorProto.UNDEFINED))


def _layer(name: str, layer: WeightedLayer, count: int, graph: _OptimizedGraph) -> LayerCoverage:
    kind = layer.spec.kind
    kept = kept_reason(layer)
    if kept:
        return LayerCoverage(name, kind, count, False, "", kept)
    nodes = graph.kernels_of(name)
    floats = [node for node in nodes if node.op_type in _FLOAT_KERNELS]
    integer = bool(nodes) and not floats
    kernel = (floats or nodes)[0].op_type if nodes else ""
    reason = "" if integer else _reason(kernel, floats, graph)
    return LayerCoverage(name, kind, count, integer, kernel, reason)


def kept_reason(layer: WeightedLayer) -> str:
    """Why the scheme keeps the input of a layer in float, or empty."""
    if isinstance(layer, WeightOnlyLayer):
        return WEIGHT_ONLY
    return KEPT_FLOAT if isinstance(layer, FloatLayer) else ""


def _reason(kernel: str, floats: list[onnx.NodeProto], graph: _OptimizedGraph) -> str:
    if not floats:
        return "the layer was not found in the optimised graph; please report the network"
    if kernel == "ConvTranspose":
        return (
            "ONNX Runtime's CPU provider has no integer transposed convolution; "
            "resize and convolve instead"
        )
    source = graph.producers.get(floats[0].input[0])
    if source is None or source.op_type != "DequantizeLinear":
        return "its input is a float tensor; put a quantizer on it"
    readers = [node.op_type for node in graph.readers.get(floats[0].output[0], [])]
    if kernel.startswith("Fused") or readers != ["QuantizeLinear"]:
        return "its result is read as float; put a quantizer directly behind it"
    return f"ONNX Runtime found no integer kernel for this {kernel}; report its shapes"
