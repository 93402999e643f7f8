"""Analysis: which tensors of a graph a runtime holds as integers, and who reads them."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import fx

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.operators import (
    ACTIVATIONS,
    AVERAGES,
    CONCATENATIONS,
    RECTIFIERS,
    SUMS,
    WEIGHTED,
    is_call,
    is_movement,
    tensor_inputs,
)
from lrq_deploy.graph.specification import layer_spec
from lrq_deploy.graph.statistics_of_roots import statistics_of_roots

__all__ = [
    "Role",
    "TensorGroup",
    "edge_layers",
    "multiplies",
    "quantized_tensors",
    "sources_of",
]


aten = torch.ops.aten


class Role(IntEnum):
    """The most demanding reader of a tensor; the highest one decides its width."""

    CURVE = 0
    """Read by a curved activation or as a gate: evaluated by a table or in float, 8 bits."""
    SUM = 1
    """Read by additions, poolings, concatenations and gains per channel only."""
    MULTIPLY = 2
    """Read by an inner convolution or linear layer."""
    EDGE = 3
    """Read by the first or the last layer, or on the way from that to the logits."""
    IMAGE = 4
    """The input image itself."""


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that share one quantizer (several only where they are concatenated).

    Attributes:
        nodes: producers of the tensors, in graph order.
        role: what decides the width.
        multiplied: whether a layer that adds up products reads it.
        summed: whether an addition, product, pooling or gain per channel reads it.
    """

    nodes: tuple[fx.Node, ...]
    role: Role
    multiplied: bool
    summed: bool


def sources_of(node: fx.Node) -> list[fx.Node]:
    """Walk up through data movement to the tensors whose values ``node`` holds.

    A constant that is expanded to the batch is a tensor of its own.
    """
    if is_movement(node) and tensor_inputs(node):
        return sources_of(tensor_inputs(node)[0])
    if is_call(node, CONCATENATIONS):
        return [source for part in tensor_inputs(node) for source in sources_of(part)]
    return [node]


def multiplies(node: fx.Node) -> bool:
    """Whether ``node`` is a convolution or linear layer that adds up products.

    One with a single weight per channel, which is what a BatchNorm behind no layer becomes, is
    a gain: 4 bits in front of it would be lost on all of its readers, and save no product.
    """
    if not is_call(node, WEIGHTED):
        return False
    owner, spec = node.graph.owning_module, layer_spec(node)
    if owner is None:
        raise TypeError(f"{node.name} belongs to no graph module")
    shape = tensor_of(owner, node.args[1]).shape
    gain = spec.kind == "conv2d" and spec.groups == shape[0] and all(n == 1 for n in shape[1:])
    return not gain


def edge_layers(graph: fx.Graph) -> tuple[set[fx.Node], set[fx.Node]]:
    """Layers that add up products with none of those before them, and with none behind them."""
    nodes = list(graph.nodes)
    layers = {node for node in nodes if multiplies(node)}
    behind = _reached(nodes, lambda node: node.all_input_nodes)
    ahead = _reached(nodes[::-1], lambda node: list(node.users))
    return layers - behind, layers - ahead


def _reached(
    nodes: list[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[fx.Node]:
    """Nodes that some layer lies before, when walking ``nodes`` along ``neighbours``."""
    found: set[fx.Node] = set()
    for node in nodes:
        if any(n in found or multiplies(n) for n in neighbours(node)):
            found.add(node)
    return found


class _Groups:
    """Union-find over producers that must share a quantizer."""

    def __init__(self) -> None:
        self.roles: dict[fx.Node, Role] = {}
        self.multiplied: set[fx.Node] = set()
        self.summed: set[fx.Node] = set()
        self._parent: dict[fx.Node, fx.Node] = {}

    def find(self, node: fx.Node) -> fx.Node:
        while self._parent.get(node, node) is not node:
            node = self._parent[node]
        return node

    def demand(self, tensor: fx.Node, role: Role) -> None:
        """Ask for integers in ``tensor``; all its sources become one group."""
        sources = sources_of(tensor)
        for source in sources:
            wanted = Role.IMAGE if source.op == "placeholder" else role
            self.roles[source] = max(wanted, self.roles.get(source, wanted))
            self._parent[self.find(source)] = self.find(sources[0])

    def read(self, tensor: fx.Node, reader: fx.Node) -> None:
        """Note what kind of reader ``tensor`` has; concatenation only passes it on."""
        if is_call(reader, CONCATENATIONS | ACTIVATIONS):
            return
        kind = self.multiplied if multiplies(reader) else self.summed
        kind.update(sources_of(tensor))


def quantized_tensors(graph: fx.Graph, floats: Collection[fx.Node] = ()) -> list[TensorGroup]:
    """All tensors that a runtime holds as integers, in graph order.

    Args:
        graph: normalised, without BatchNorm.
        floats: weighted layers that work on floats.
    """
    first, _ = edge_layers(graph)
    ahead = _reached(list(graph.nodes)[::-1], lambda node: list(node.users))
    groups = _Groups()
    left = {*floats, *statistics_of_roots(graph)}
    for node in graph.nodes:
        if node in left:
            continue
        is_edge = node in first or node not in ahead
        for tensor in filter(_is_real, _integer_inputs(node)):
            groups.demand(tensor, _reading_role(node, tensor, is_edge))
            groups.read(tensor, node)
        if _has_integer_output(node, left) and not _left_to_floats(node, floats):
            groups.demand(node, Role.CURVE)
    members: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in groups.roles:
            members.setdefault(groups.find(node), []).append(node)
    return [
        TensorGroup(
            tuple(nodes),
            max(groups.roles[node] for node in nodes),
            not groups.multiplied.isdisjoint(nodes),
            not groups.summed.isdisjoint(nodes),
        )
        for nodes in members.values()
    ]


def _is_real(node: fx.Node) -> bool:
    """Whether the tensor has numbers to quantize, not indices or truth values."""
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point()


def _integer_inputs(node: fx.Node) -> list[fx.Node]:
    inputs = tensor_inputs(node)
    if is_call(node, SUMS):
        return inputs if len(inputs) == 2 or _is_square(node) else []
    if is_call(node, WEIGHTED):
        return inputs[:1]
    if is_call(node, AVERAGES | CONCATENATIONS | ACTIVATIONS):
        return inputs
    return []


def _left_to_floats(node: fx.Node, floats: Collection[fx.Node]) -> bool:
    """Whether only float linear layers read ``node``, an average or a sum, behind movements.

    An 8-bit quantizer in front of INT4 weights stops TensorRT's builder.
    """
    if is_call(node, WEIGHTED | RECTIFIERS):
        return False
    readers = list(node.users)
    pending = [reader for reader in readers if is_movement(reader)]
    if pending:
        return len(pending) == len(readers) and all(_left_to_floats(n, floats) for n in pending)
    return bool(readers) and all(n in floats and is_call(n, {aten.linear.default}) for n in readers)


def _is_square(node: fx.Node) -> bool:
    """``x + x`` and ``x * x`` have one distinct input and no constant."""
    return len(node.args) >= 2 and node.args[0] is node.args[1]


def _reading_role(reader: fx.Node, tensor: fx.Node, is_edge: bool) -> Role:
    """``is_edge``: the reader is a first or last layer, or stands behind the last."""
    if multiplies(reader):
        return Role.EDGE if is_edge else Role.MULTIPLY
    if is_call(reader, ACTIVATIONS):
        return Role.CURVE
    if _is_product(reader) and all(is_call(n, ACTIVATIONS) for n in sources_of(tensor)):
        return Role.CURVE
    return Role.EDGE if is_edge else Role.SUM


def _is_product(node: fx.Node) -> bool:
    return is_call(node, {aten.mul.Tensor})


def _has_integer_output(node: fx.Node, floats: Collection[fx.Node]) -> bool:
    """Whether the node's own result must be integers, so that it can run fused.

    A clipping activation that alone reads a result takes its place, unless it works on ``floats``.
    """
    produces = is_call(node, WEIGHTED | AVERAGES | RECTIFIERS) or (
        is_call(node, SUMS) and bool(_integer_inputs(node))
    )
    if not produces or not _is_real(node) or _ends_the_network(node):
        return False
    users = list(node.users)
    return not (len(users) == 1 and is_call(users[0], RECTIFIERS) and users[0] not in floats)


def _ends_the_network(node: fx.Node) -> bool:
    """Whether only data movement and clipping lie between ``node`` and the logits."""
    return all(
        user.op == "output"
        or (
            (is_movement(user) or is_call(user, RECTIFIERS | ACTIVATIONS))
            and _ends_the_network(user)
        )
        for user in node.users
    )
