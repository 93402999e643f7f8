"""Which layers of an engine compute in INT8, read from the log of its build."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lrq_deploy.export.coverage import Coverage, LayerCoverage, kept_reason
from lrq_deploy.export.multiply_adds import multiply_adds
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import WeightedLayer, weighted_layers

__all__ = ["EngineLayer", "audit_engine", "read_layers"]

# With detailed profiling verbosity the builder logs one such line per layer of the engine.
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w*), Inputs: (?P<inputs>.*?), "
    r"(?:Constants: (?P<constants>.*?), )?Outputs: (?P<outputs>.*?), TacticName: "
)
_DATATYPE = re.compile(r"Datatype: (\w+)")
# TensorRT's inspector prints no Datatype, but a format such as "Channel major INT8 format".
_FORMAT = re.compile(r"Format(?:/Datatype)?: [^}]*?\b(Int8|INT8|FP32|FP16|Float|Half)\b")
_INT8 = "int8"


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    Attributes:
        name: made from the names of the graph's nodes.
        kind: the builder's own type, for instance ``correlation`` or ``kgen``.
        inputs, constants: data types in lower case, in order.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]

    def holds(self, node: str) -> bool:
        """Whether the layer was made from the node of that name."""
        return re.search(rf"(?<![\w.]){re.escape(node)}(?![\w.]|_(?!myl))", self._plain) is not None

    @property
    def _plain(self) -> str:
        return re.sub(r"_myl\d+_\d+", "", self.name)


def read_layers(lines: Iterable[str]) -> tuple[EngineLayer, ...]:
    """The layers that a build log lists; empty where it has no such list."""
    found = []
    for line in lines:
        for part in line.splitlines():
            match = _LAYER.search(part)
            if match is not None:
                found.append(
                    EngineLayer(
                        match["name"],
                        match["kind"],
                        _types(match["inputs"]),
                        _types(match["constants"] or ""),
                    )
                )
    return tuple(found)


def _types(text: str) -> tuple[str, ...]:
    return tuple(name.lower() for name in _DATATYPE.findall(text) or _FORMAT.findall(text))


def audit_engine(model: QuantizedModel, lines: Iterable[str]) -> Coverage | None:
    """Find every weighted layer in the log and see what it multiplies.

    Returns:
        the audit, in which ``float_operators`` counts the other layers that read floats; ``None``
        where the log lists no layers, so that nothing is known.
    """
    layers = read_layers(lines)
    if not layers:
        return None
    counts = multiply_adds(model)
    holders = {name: [x for x in layers if x.holds(name)] for name in model.layers()}
    audited = tuple(
        _audit(name, layer, counts[name], holders.get(name, ()))
        for name, layer in weighted_layers(model).items()
    )
    weighted = {id(layer) for found in holders.values() for layer in found}
    others: dict[str, int] = {}
    for layer in layers:
        if id(layer) not in weighted and any(kind != _INT8 for kind in layer.inputs):
            others[layer.kind] = others.get(layer.kind, 0) + 1
    return Coverage(audited, dict(sorted(others.items())))


def _audit(
    name: str, weighted: WeightedLayer, count: int, found: Sequence[EngineLayer]
) -> LayerCoverage:
    kind = weighted.spec.kind
    kept = kept_reason(weighted)
    if kept:
        return LayerCoverage(name, kind, count, False, "", kept)
    if not found:
        reason = "the build log does not name the layer; it may be merged into another one"
        return LayerCoverage(name, kind, count, False, "", reason)
    layer = found[0]
    operands = (layer.inputs[:1], layer.constants[:1])
    integer = all(types in ((_INT8,), ()) for types in operands) and layer.inputs[:1] == (_INT8,)
    received = " and ".join(types[0] for types in operands if types) or "operands of unknown type"
    reason = "" if integer else f"the engine multiplies {received}; {_remedy(weighted)}"
    return LayerCoverage(name, kind, count, integer, layer.kind, reason)


def _remedy(weighted: WeightedLayer) -> str:
    # Asked of every GPU type of TensorRT for RTX 1.7; docs/tensorrt.md.
    if weighted.spec.kind == "conv_transpose2d":
        return (
            "no GPU type of TensorRT for RTX has an INT8 transposed convolution; "
            "resize and convolve instead"
        )
    return "build for another GPU type"
