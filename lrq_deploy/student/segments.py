"""Pass: cut a student where everything passes through one tensor.

Requires: a placed student.
Ensures: the segments follow each other from the image to the logits, each reads the tensor that
the one before gives, and each has a weighted layer; ``segment_graph`` shares all modules with the
student. A residual block is one segment, for its shortcut goes round its inner tensors.
"""

from dataclasses import dataclass

from torch import fx

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.student.layers import QuantizedLayer, is_quantizer

__all__ = ["Segment", "segment_graph", "segments_of"]


@dataclass(frozen=True)
class Segment:
    """Part of a graph between two tensors, by the names of their nodes.

    Attributes:
        start: what it reads; None for the image.
        end: what it gives: the output of a quantizer, or the logits.
    """

    start: str | None
    end: str


def segments_of(student: fx.GraphModule) -> list[Segment]:
    """The shortest segments that hold a layer each; at least one, if the student has a layer."""
    logits = student.graph.output_node().all_input_nodes[0]
    ends: list[str] = []
    layers = 0
    cuts = set(_cuts(student))
    for node in student.graph.nodes:
        layers += isinstance(called_module(student, node), QuantizedLayer)
        if layers and node in cuts:
            ends.append(node.name)
            layers = 0
    if layers or not ends:
        ends.append(logits.name)
    else:
        ends[-1] = logits.name
    return [Segment(start, end) for start, end in zip([None, *ends], ends, strict=False)]


def segment_graph(student: fx.GraphModule, segment: Segment) -> fx.GraphModule:
    """The segment alone: from what it reads to what it gives."""
    nodes = {node.name: node for node in student.graph.nodes}
    needed: set[fx.Node] = set()
    pending = [nodes[segment.end]]
    while pending:
        node = pending.pop()
        if node not in needed and node.name != segment.start:
            needed.add(node)
            pending += node.all_input_nodes
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if segment.start is not None:
        copies[nodes[segment.start]] = graph.placeholder("x")
    for node in student.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[segment.end]])
    return fx.GraphModule(student, graph)


def _cuts(student: fx.GraphModule) -> list[fx.Node]:
    """Outputs of quantizers beside which no other tensor is still to be read."""
    nodes = list(student.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    last_use = {n: max((place[user] for user in n.users), default=-1) for n in nodes}
    data = _data_nodes(nodes)
    cuts: list[fx.Node] = []
    alive: set[fx.Node] = set()
    for node in nodes:
        if node not in data:
            continue
        alive = {other for other in alive | {node} if last_use[other] > place[node]}
        if alive == {node} and is_quantizer(student, node):
            cuts.append(node)
    return cuts


def _data_nodes(nodes: list[fx.Node]) -> set[fx.Node]:
    """Nodes whose value depends on the image; scales and constants are everywhere at hand."""
    data: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in data for source in node.all_input_nodes):
            data.add(node)
    return data
