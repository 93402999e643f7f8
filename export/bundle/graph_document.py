"""A frozen graph as plain JSON values and back, without any executable content.

Only named operators of ``aten`` that take a tensor and change none, a few creators of
constants and the arithmetic of sizes are accepted, so a changed file cannot call anything else.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from lrq_deploy.errors import BundleError, ExportError
from lrq_deploy.graph.clipping import Limits
from lrq_deploy.stored_schema import check_schema

__all__ = ["GRAPH_SCHEMA", "graph_from_json", "graph_to_json"]

GRAPH_SCHEMA = 1

_SIZE_OPERATORS: dict[str, Callable[..., Any]] = {
    "operator.add": operator.add,
    "operator.floordiv": operator.floordiv,
    "operator.getitem": operator.getitem,
    "operator.mul": operator.mul,
    "operator.sub": operator.sub,
}
_SIZE_NAMES = {function: name for name, function in _SIZE_OPERATORS.items()}
_CREATORS = frozenset({"arange", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros"})
_TORCH_CONSTANTS = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
# fx writes targets and keywords into the code that it generates.
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_NODE_KINDS = ("placeholder", "get_attr", "call_module", "call_function", "output")


def graph_to_json(graph: fx.Graph) -> dict[str, Any]:
    """Nodes with operator, target and arguments; limits that a quantizer repeats, where it does.

    Raises:
        ExportError: the graph holds something that the document cannot state.
    """
    nodes = [
        {
            "name": node.name,
            "op": node.op,
            "target": _target_name(node),
            "args": _encode(node.args),
            "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
            **({"clip": _encode(node.meta["clip"])} if "clip" in node.meta else {}),
        }
        for node in graph.nodes
    ]
    return {"schema_version": GRAPH_SCHEMA, "nodes": nodes}


def graph_from_json(document: Mapping[str, Any], root: nn.Module) -> fx.GraphModule:
    """Rebuild the graph over the modules and buffers of ``root``.

    Raises:
        BundleError: another schema, a malformed node, or an operator that is not allowed.
    """
    check_schema("the graph", document.get("schema_version"), (GRAPH_SCHEMA,))
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in document["nodes"]:
        kind, target = entry["op"], _target(entry["op"], entry["target"])
        keywords = {_checked(key): _decode(v, nodes) for key, v in entry["kwargs"].items()}
        arguments = tuple(_decode(value, nodes) for value in entry["args"]["tuple"])
        nodes[entry["name"]] = graph.create_node(
            kind, target, arguments, keywords, name=_checked(entry["name"])
        )
        if "clip" in entry:
            nodes[entry["name"]].meta["clip"] = _limits(entry["clip"])
    module = fx.GraphModule(root, graph)
    module.graph.lint()
    return module


def _limits(value: Any) -> Limits:
    match _decode(value, {}):
        case (None | int() | float() as low, None | int() | float() as high):
            return low, high
    raise _refused(f"the limits {value!r}")


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        if not _allowed(node.target):
            raise ExportError(
                "a bundle may hold only ATen operators on tensors",
                str(node.target),
                "replace the operator in the network, or report it with the network's name",
            )
        return str(node.target)
    name = _SIZE_NAMES.get(node.target)  # type: ignore[arg-type]
    if name is None:
        raise ExportError(
            "a frozen graph must consist of ATen operators",
            str(node.target),
            "this is a fault of lrq-deploy; please report it with the network's name",
        )
    return name


def _target(kind: str, name: str) -> Any:
    if kind not in _NODE_KINDS:
        raise _refused(f"a node of kind {kind!r}")
    if kind != "call_function":
        return _checked(name)
    if name in _SIZE_OPERATORS:
        return _SIZE_OPERATORS[name]
    return _aten_operator(name)


def _aten_operator(name: str) -> Any:
    parts = name.split(".")
    if len(parts) != 3 or parts[0] != "aten" or not _PATH.fullmatch(name):
        raise _refused(name)
    packet = getattr(torch.ops.aten, parts[1], None)
    overload = getattr(packet, parts[2], None)
    if not isinstance(overload, torch._ops.OpOverload) or not _allowed(overload):
        raise _refused(name)
    return overload


def _allowed(overload: torch._ops.OpOverload) -> bool:
    """Whether it is of ATen, changes nothing, and takes a tensor or makes a constant."""
    schema = overload._schema
    takes_tensor = any("Tensor" in str(argument.type) for argument in schema.arguments)
    creates = schema.name.removeprefix("aten::") in _CREATORS
    return overload.namespace == "aten" and not schema.is_mutable and (takes_tensor or creates)


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, torch.device):
        return {"device": value.type}
    for key, kind in _TORCH_CONSTANTS.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    raise ExportError(
        "arguments of a frozen graph must be numbers, names or nodes",
        f"{type(value).__name__}",
        "this is a fault of lrq-deploy; please report it with the network's name",
    )


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise _refused(f"an argument with the keys {sorted(value)}")
    ((key, content),) = value.items()
    if key == "node" and content in nodes:
        return nodes[content]
    if key == "tuple":
        return tuple(_decode(v, nodes) for v in content)
    if key == "float":
        return float(content)
    if key == "device" and content in ("cpu", "cuda"):
        return torch.device("cpu")
    constant = getattr(torch, str(content), None)
    if key in _TORCH_CONSTANTS and isinstance(constant, _TORCH_CONSTANTS[key]):
        return constant
    raise _refused(f"the argument {key}={content!r}")


def _checked(name: str) -> str:
    if not _PATH.fullmatch(name):
        raise _refused(f"the name {name!r}")
    return name


def _refused(what: str) -> BundleError:
    return BundleError(
        "a stored graph may hold only ATen operators on tensors",
        what,
        "get the bundle again from where it was made",
    )
