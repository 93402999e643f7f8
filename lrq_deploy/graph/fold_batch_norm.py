"""Pass: fold every BatchNorm into its convolution, or turn it into one.

Requires: a normalised graph.
Ensures: no BatchNorm is left; the float function is the same up to rounding. A BatchNorm
behind a convolution or linear layer with no other reader is folded into it (each layer then
owns its weight, also where several shared one); any other becomes a depthwise 1x1
convolution, which runtimes execute in integers.

Folding (Jacob et al. 2017, arXiv 1712.05877, section 3.2), per output channel c:
``w'[c] = w[c] * gamma[c] / sqrt(var[c] + eps)``,
``b'[c] = (b[c] - mean[c]) * gamma[c] / sqrt(var[c] + eps) + beta[c]``.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.attributes import add_tensor_node, optional_tensor, tensor_of
from lrq_deploy.graph.operators import LAYER_KINDS, WEIGHTED, is_call

__all__ = ["fold_batch_norm"]

aten = torch.ops.aten


def fold_batch_norm(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a folded copy; the argument is unchanged.

    Raises:
        UnsupportedNetworkError: a BatchNorm over volumes.
    """
    folded = copy.deepcopy(graph_module)
    graph = folded.graph
    for node in list(graph.nodes):
        if not is_call(node, {aten.batch_norm.default}):
            continue
        gain, shift = _affine(folded, node)
        source = node.args[0]
        if _can_take(source):
            _fold_into(folded, source, gain, shift)
            node.replace_all_uses_with(source)
        else:
            node.replace_all_uses_with(_as_layer(folded, node, gain, shift))
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    folded.recompile()
    return folded


def _affine(graph_module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Gain and shift ``[C]`` of an evaluation-mode BatchNorm, in float64."""
    arguments: list[Any] = list(node.args)
    _, weight, bias, mean, var, _, _, eps, _ = arguments
    mean_value = tensor_of(graph_module, mean).double()
    gain = (tensor_of(graph_module, var).double() + float(eps)).rsqrt()
    gamma = optional_tensor(graph_module, weight)
    if gamma is not None:
        gain = gain * gamma.double()
    shift = -mean_value * gain
    beta = optional_tensor(graph_module, bias)
    if beta is not None:
        shift = shift + beta.double()
    return gain, shift


def _fold_into(graph_module: fx.GraphModule, layer: fx.Node, gain: Tensor, shift: Tensor) -> None:
    args: list[Any] = list(layer.args) + [None] * (3 - len(layer.args))
    weight = tensor_of(graph_module, args[1]).double()
    bias = optional_tensor(graph_module, args[2])
    folded_bias = shift if bias is None else bias.double() * gain + shift
    groups = _groups(layer)
    with graph_module.graph.inserting_before(layer):
        args[1] = add_tensor_node(
            graph_module, f"{layer.name}.weight", _scaled(layer, weight, gain, groups)
        )
        args[2] = add_tensor_node(graph_module, f"{layer.name}.bias", folded_bias)
    layer.args = tuple(args)


def _scaled(layer: fx.Node, weight: Tensor, gain: Tensor, groups: int) -> Tensor:
    if LAYER_KINDS[layer.target] != "conv_transpose2d":
        return weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    # Layout [C_in, C_out / groups, kh, kw]: output channel g * (C_out / groups) + j.
    per_group = gain.reshape(groups, 1, weight.shape[1], 1, 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * per_group).reshape(weight.shape)


def _groups(layer: fx.Node) -> int:
    # The same place in conv2d and conv_transpose2d.
    groups: Any = layer.args[6] if len(layer.args) > 6 else 1
    return int(groups)


def _can_take(source: fx.Node) -> bool:
    """Whether ``source`` is a layer that only the BatchNorm reads, with the same channel axis."""
    if not is_call(source, WEIGHTED) or len(source.users) != 1:
        return False
    return LAYER_KINDS[source.target] != "linear" or _rank(source) == 2


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return 4 if value is None else int(value.dim())


def _as_layer(graph_module: fx.GraphModule, node: fx.Node, gain: Tensor, shift: Tensor) -> fx.Node:
    """A depthwise 1x1 convolution with the same function; the channel axis is 1 at any rank."""
    graph, rank = graph_module.graph, _rank(node)
    if rank > 4:
        raise UnsupportedNetworkError(
            "BatchNorm inputs must have 2 to 4 dimensions",
            f"{rank} at {node.name}",
            "reshape the tensor in the network",
        )
    missing = list(range(rank, 4))
    with graph.inserting_before(node):
        x = node.args[0]
        for axis in missing:
            x = graph.call_function(aten.unsqueeze.default, (x, axis))
        weight = add_tensor_node(graph_module, f"{node.name}.weight", gain.reshape(-1, 1, 1, 1))
        bias = add_tensor_node(graph_module, f"{node.name}.bias", shift)
        layer = graph.call_function(
            aten.conv2d.default, (x, weight, bias, [1, 1], [0, 0], [1, 1], gain.numel())
        )
        layer.meta["layer"] = node.meta.get("layer", node.name)
        if not missing:
            return layer
        return graph.call_function(aten.squeeze.dims, (layer, missing))
