"""Pass: make the inputs of all BatchNorms extra outputs of the teacher.

Requires: a normalised graph.
Ensures: the returned graph gives ``(logits, features, taps)``; ``taps[i]`` is the input of
BatchNorm i, whose stored mean and variance are ``NormStatistics`` i.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import optional_tensor, tensor_of
from lrq_deploy.graph.finite_gradients import finite_gradients
from lrq_deploy.graph.on_device import on_device
from lrq_deploy.graph.operators import ORDER_KEEPING, arguments, is_call

__all__ = [
    "Classifier",
    "NormStatistics",
    "TappedTeacher",
    "batch_norms",
    "last_linear",
    "tap_batch_norms",
]

aten = torch.ops.aten


@dataclass(frozen=True)
class NormStatistics:
    """Running statistics of one BatchNorm input: mean and (unbiased) variance, each ``[C]``."""

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Classifier:
    """The last linear layer: ``weight`` ``[classes, F]`` (row = class centre), ``bias``."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class TappedTeacher:
    """A teacher that also shows what its BatchNorms see.

    Attributes:
        graph: ``[N, C, H, W] -> (logits [N, K], features [N, F] or None, taps)``.
        statistics: one entry per tap, in the order of ``taps``.
        classifier: the last linear layer, ``None`` where the network ends otherwise.
    """

    graph: fx.GraphModule
    statistics: tuple[NormStatistics, ...]
    classifier: Classifier | None


def batch_norms(graph_module: fx.GraphModule) -> list[fx.Node]:
    """All BatchNorms, in the order of the graph."""
    return [n for n in graph_module.graph.nodes if is_call(n, {aten.batch_norm.default})]


_CPU = torch.device("cpu")


def tap_batch_norms(graph_module: fx.GraphModule, device: torch.device = _CPU) -> TappedTeacher:
    """Return a tapped copy, with all of its tensors on ``device``; the argument is unchanged."""
    tapped = on_device(copy.deepcopy(graph_module), device)
    norms = batch_norms(tapped)
    statistics = tuple(
        NormStatistics(tensor_of(tapped, n.args[3]).clone(), tensor_of(tapped, n.args[4]).clone())
        for n in norms
    )
    output = tapped.graph.output_node()
    logits = output.args[0]
    head = last_linear(tapped)
    classifier: Classifier | None = None
    features: Any = None
    if head is not None:
        features, stored, offset = arguments(head)
        bias = optional_tensor(tapped, offset)
        weight = tensor_of(tapped, stored).detach().clone()
        classifier = Classifier(weight, None if bias is None else bias.detach().clone())
    output.args = ((logits, features, [n.args[0] for n in norms]),)
    finite_gradients(tapped)
    tapped.graph.lint()
    tapped.recompile()
    return TappedTeacher(tapped, statistics, classifier)


def last_linear(graph_module: fx.GraphModule) -> fx.Node | None:
    """The linear layer whose outputs are the logits, one for one, if the network ends in one."""
    node: Any = graph_module.graph.output_node().args[0]
    logits = node
    while is_call(node, ORDER_KEEPING):
        node = node.args[0]
    sizes = [tuple(n.meta["val"].shape[1:]) for n in (node, logits) if "val" in n.meta]
    same = all(len(size) == 1 and size == sizes[0] for size in sizes)
    return node if is_call(node, {aten.linear.default}) and same else None
