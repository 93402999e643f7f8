"""Graphs as JSON: what is stored comes back, what is not allowed does not."""

import json
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.node import Argument

from lrq_deploy.errors import BundleError, ExportError
from lrq_deploy.export.bundle.graph_document import graph_from_json, graph_to_json

pytestmark = pytest.mark.unit

aten = torch.ops.aten


def sample_graph() -> fx.Graph:
    graph = fx.Graph()
    x = graph.placeholder("input")
    offset = graph.get_attr("constants.offset")
    x = graph.call_function(aten.add.Tensor, (x, offset), {"alpha": 2})
    parts = graph.call_function(aten.split.Tensor, (x, 2, 1))
    import operator

    first = graph.call_function(operator.getitem, (parts, 0))
    second = graph.call_function(operator.getitem, (parts, 1))
    joined = graph.call_function(aten.cat.default, ([second, first], 1))
    low = graph.call_function(aten.clamp.default, (joined, float("-inf"), 1.5))
    size = graph.call_function(aten.sym_size.int, (low, 0))
    kind: dict[str, Argument] = {"dtype": torch.float32, "device": torch.device("cpu")}
    ones = graph.call_function(aten.full.default, ([1, 1], 1.0), kind)
    scaled = graph.call_function(aten.mul.Tensor, (low, ones))
    graph.output(graph.call_function(aten.view.default, (scaled, [size, -1])))
    return graph


def root() -> nn.Module:
    module = nn.Module()
    module.constants = nn.Module()
    module.constants.register_buffer("offset", torch.arange(4.0))
    return module


def test_round_trip_through_text() -> None:
    graph = sample_graph()
    text = json.dumps(graph_to_json(graph), allow_nan=False)
    again = graph_from_json(json.loads(text), root())
    x = torch.randn(3, 4)
    assert torch.equal(again(x), fx.GraphModule(root(), graph)(x))
    assert graph_to_json(again.graph) == graph_to_json(graph)


@pytest.mark.parametrize(
    "target",
    [
        "aten.from_file.default",
        "aten.add_.Tensor",
        "aten.relu",
        "aten.relu.nothing",
        "aten.__class__.mro",
        "prims.sin.default",
        "os.system",
        "operator.methodcaller",
        "",
    ],
)
def test_other_operators_are_refused(target: str) -> None:
    with pytest.raises(BundleError, match="only ATen operators"):
        graph_from_json(one_node("call_function", target), root())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("op", "call_method"),
        ("op", "root"),
        ("name", "x = print('ran')"),
        ("kwargs", {"a=print('ran'), b": 1}),
        ("args", {"tuple": [{"node": "nowhere"}]}),
        ("args", {"tuple": [{"dtype": "save"}]}),
        ("args", {"tuple": [{"device": "meta"}]}),
        ("args", {"tuple": [{"a": 1, "b": 2}]}),
    ],
)
def test_code_cannot_hide_in_a_node(field: str, value: Any) -> None:
    document = one_node("call_function", "aten.relu.default")
    document["nodes"][1][field] = value
    with pytest.raises(BundleError):
        graph_from_json(document, root())


def test_code_cannot_hide_in_a_module_path() -> None:
    with pytest.raises(BundleError):
        graph_from_json(one_node("call_module", 'a"), print("ran'), root())


@pytest.mark.parametrize("limits", [3.0, {"tuple": [0.0]}, {"tuple": ["0", None]}, None])
def test_limits_are_two_numbers_or_none(limits: Any) -> None:
    document = one_node("call_function", "aten.relu.default")
    document["nodes"][1]["clip"] = {"tuple": [0.0, None]}
    read = graph_from_json(document, root())
    assert [n.meta.get("clip") for n in read.graph.nodes] == [None, (0.0, None)]
    assert graph_to_json(read.graph)["nodes"][1]["clip"] == {"tuple": [0.0, None]}
    document["nodes"][1]["clip"] = limits
    with pytest.raises(BundleError, match="limits"):
        graph_from_json(document, root())


def test_another_schema_is_refused() -> None:
    with pytest.raises(BundleError, match="schema_version"):
        graph_from_json({"schema_version": 2, "nodes": []}, root())


def test_other_targets_and_arguments_cannot_be_stored() -> None:
    graph = fx.Graph()
    graph.call_function(torch.relu, (graph.placeholder("input"),))
    with pytest.raises(ExportError, match="ATen"):
        graph_to_json(graph)
    graph = fx.Graph()
    graph.call_function(aten.relu.default, (graph.placeholder("input"), slice(1)))
    with pytest.raises(ExportError, match="slice"):
        graph_to_json(graph)


@pytest.mark.parametrize("name", ["empty.memory_format", "randn.default", "relu_.default"])
def test_what_could_not_be_read_again_is_not_stored(name: str) -> None:
    graph = fx.Graph()
    packet, overload = name.split(".")
    graph.call_function(getattr(getattr(aten, packet), overload), (graph.placeholder("input"),))
    with pytest.raises(ExportError, match=f"aten.{name}"):
        graph_to_json(graph)


def one_node(kind: str, target: str) -> dict[str, Any]:
    image = {"name": "input", "op": "placeholder", "target": "input"}
    node = {"name": "y", "op": kind, "target": target}
    return {
        "schema_version": 1,
        "nodes": [
            {**image, "args": {"tuple": []}, "kwargs": {}},
            {**node, "args": {"tuple": [{"node": "input"}]}, "kwargs": {}},
        ],
    }
