"""Which layers of an engine compute in INT8, read from the log of its build."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lrq_deploy.export.engine.options import EngineKind
from lrq_deploy.export.measures.coverage import Coverage, LayerCoverage, kept_reason, strays
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.layer_costs import layer_costs
from lrq_deploy.student.weighted import WeightedLayer, weighted_layers

__all__ = ["EngineLayer", "audit_engine", "read_layers"]

# With detailed profiling verbosity the builder logs one such line per layer of the engine.
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w*), Inputs: (?P<inputs>.*?), "
    r"(?:Constants: (?P<constants>.*?), )?Outputs: (?P<rest>.*)"
)
# Datatype in TensorRT for RTX, Format/Datatype in TensorRT 10, DataType in 11.
_DATATYPE = re.compile(r"Data ?type: ([^,}]*)", re.IGNORECASE)
# TensorRT 10 may write "Thirty-two wide channel vectorized row major Int8 format".
_TYPE = re.compile(r"\b(?:U?Int\d+|B?FP?\d+|B?Float\w*|Half|Bool)\b", re.IGNORECASE)
_WEIGHTS = re.compile(r'Weights: \{"?Type"?: "?(\w+)')
_TACTIC = re.compile(r"TacticName: ([^,]*)")
_INTEGER_TACTIC = re.compile(r"i8i8|i8i32|imma|int8", re.IGNORECASE)
_INT8 = "int8"
_UNNAMED = "the build log does not name the layer; it may be merged into another one"
_UNREADABLE = "the build log does not say which types the engine multiplies"


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: made from the names of the graph's nodes.
        kind: the builder's own type, for instance ``correlation`` or ``kgen``.
        inputs, constants: data types in lower case, in order, empty where the log has none:
            TensorRT 10 writes "N/A due to dynamic shapes".
        weights: data type that TensorRT states apart from tensors, else empty.
        tactic: name of the kernel, else empty.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    weights: str = ""
    tactic: str = ""

    def holds(self, node: str) -> bool:
        """Whether the layer was made from the node of that name."""
        return re.search(rf"(?<![\w.]){re.escape(node)}(?![\w.]|_(?!myl))", self._plain) is not None

    @property
    def operands(self) -> tuple[str, str]:
        """Data types of what is multiplied, input and weights; empty where nothing tells them."""
        read = self.inputs[0] if self.inputs else ""
        weights = (self.constants[0] if self.constants else "") or self.weights
        if not read and weights == _INT8 and _INTEGER_TACTIC.search(self.tactic):
            read = _INT8
        return read, weights

    @property
    def _plain(self) -> str:
        return re.sub(r"_myl\d+_\d+", "", self.name)


def read_layers(lines: Iterable[str]) -> tuple[EngineLayer, ...]:
    """The layers that a build log lists; empty where it has no such list."""
    parts = (part for line in lines for part in line.splitlines())
    return tuple(_layer(match) for match in map(_LAYER.search, parts) if match is not None)


def _layer(match: re.Match[str]) -> EngineLayer:
    weights, tactic = (pattern.search(match["rest"]) for pattern in (_WEIGHTS, _TACTIC))
    return EngineLayer(
        match["name"],
        match["kind"],
        _types(match["inputs"]),
        _types(match["constants"] or ""),
        "" if weights is None else weights[1].lower(),
        "" if tactic is None else tactic[1].strip(),
    )


def _types(text: str) -> tuple[str, ...]:
    return tuple(_type(tensor) for tensor in re.split(r"\{\s*Name: ", text)[1:])


def _type(tensor: str) -> str:
    stated = _DATATYPE.search(tensor)
    found = None if stated is None else _TYPE.search(stated[1])
    return "" if found is None else found[0].lower()


def audit_engine(
    model: QuantizedModel, lines: Iterable[str], kind: EngineKind = "tensorrt-rtx"
) -> Coverage | None:
    """Find every weighted layer in the log and see what it multiplies.

    Args:
        model: the student.
        lines: log of the build.
        kind: of the engine, for the remedies.

    Returns:
        the audit, in which ``float_operators`` counts the other layers that read floats; ``None``
        where the log tells of no layer what it multiplies.
    """
    # A copy into another format bears the name of the layer that reads it.
    layers = read_layers(lines)
    named = [layer for layer in layers if layer.kind.lower() != "reformat"]
    costs = layer_costs(model.graph, model.input_shape)
    holders = {name: [x for x in named if x.holds(name)] for name in model.layers()}
    audited = tuple(
        _audit(name, layer, costs[name].multiply_adds, holders.get(name, ()), kind)
        for name, layer in weighted_layers(model).items()
    )
    if not layers or (audited and all(x.reason in (_UNNAMED, _UNREADABLE) for x in audited)):
        return None
    weighted = {id(layer) for found in holders.values() for layer in found}
    others: dict[str, int] = {}
    for layer in layers:
        if id(layer) not in weighted and any(x not in ("", _INT8) for x in layer.inputs):
            others[layer.kind] = others.get(layer.kind, 0) + 1
    return Coverage(audited + strays(model), dict(sorted(others.items())))


def _audit(
    name: str,
    weighted: WeightedLayer,
    count: int,
    found: Sequence[EngineLayer],
    engine: EngineKind,
) -> LayerCoverage:
    kind = weighted.spec.kind
    kept = kept_reason(weighted)
    if kept or not found:
        return LayerCoverage(name, kind, count, False, "", kept or _UNNAMED)
    layer = found[0]
    read, weights = layer.operands
    if weights in ("", _INT8) and read in ("", _INT8):
        reason = "" if read else _UNREADABLE
    else:
        received = " and ".join(x for x in (read, weights) if x)
        reason = f"the engine multiplies {received}; {_remedy(weighted, engine)}"
    return LayerCoverage(name, kind, count, not reason, layer.kind, reason)


def _remedy(weighted: WeightedLayer, engine: EngineKind) -> str:
    if engine == "tensorrt":
        return "report it with the network's name and the GPU"
    # Asked of every GPU type of TensorRT for RTX 1.7; docs/tensorrt.md.
    if weighted.spec.kind == "conv_transpose2d":
        return (
            "no GPU type of TensorRT for RTX has an INT8 transposed convolution; "
            "resize and convolve instead"
        )
    return "build for another GPU type"
