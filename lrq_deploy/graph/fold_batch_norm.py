"""Pass: fold every BatchNorm into its convolution, or turn it into one.

Requires: a normalised graph.
Ensures: no BatchNorm is left; the float function is the same up to rounding, and but for channels
that never varied in training, as pruned ones: there the running mean goes in. A BatchNorm
behind a convolution or linear layer with no other reader is folded into it (each layer then
owns its weight, also where several shared one); any other becomes a depthwise 1x1
convolution, which runtimes execute in integers. One over concatenated vectors, such as the
maxima and means of fastai's heads, becomes one per part: each part then has a range of its own,
and what shares a quantizer is normalised.

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
from lrq_deploy.graph.operators import (
    CONCATENATIONS,
    LAYER_KINDS,
    ORDER_KEEPING,
    WEIGHTED,
    arguments,
    is_call,
)
from lrq_deploy.graph.specification import LayerSpec, layer_spec

__all__ = ["fold_batch_norm"]

aten = torch.ops.aten

STILL = 1e-4
"""Variance, as a share of ``eps``, of channels that spread by less than a hundredth of gamma."""


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
        vectors = _concatenated_vectors(source)
        taken = _can_take(source)
        if not taken:
            gain, shift = _constant_where_still(folded, node, gain, shift)
        if taken:
            _fold_into(folded, source, gain, shift)
            node.replace_all_uses_with(source)
        elif vectors is not None:
            _normalise_parts(folded, node, vectors, gain, shift)
            node.replace_all_uses_with(source)
        else:
            node.replace_all_uses_with(_as_layer(folded, node, source, gain, shift))
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    folded.recompile()
    return folded


def _affine(graph_module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Gain and shift ``[C]`` of an evaluation-mode BatchNorm, in float64."""
    _, weight, bias, mean, var, _, _, eps, _ = arguments(node)
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


def _constant_where_still(
    graph_module: fx.GraphModule, node: fx.Node, gain: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, without gain in channels of one value other than 0.

    A gain of up to ``eps ** -0.5`` would only enlarge the rounding error of that value.
    """
    mean, var = (tensor_of(graph_module, stored).double() for stored in node.args[3:5])
    eps: Any = node.args[7]
    still = (var < STILL * eps) & (mean != 0)
    return gain.masked_fill(still, 0), torch.where(still, shift + mean * gain, shift)


def _fold_into(graph_module: fx.GraphModule, layer: fx.Node, gain: Tensor, shift: Tensor) -> None:
    args = arguments(layer)
    weight = tensor_of(graph_module, args[1]).double()
    bias = optional_tensor(graph_module, args[2])
    folded_bias = shift if bias is None else bias.double() * gain + shift
    scaled = _scaled(weight, gain, layer_spec(layer))
    with graph_module.graph.inserting_before(layer):
        args[1] = add_tensor_node(graph_module, f"{layer.name}.weight", scaled)
        args[2] = add_tensor_node(graph_module, f"{layer.name}.bias", folded_bias)
    layer.args = tuple(args)


def _scaled(weight: Tensor, gain: Tensor, spec: LayerSpec) -> Tensor:
    if spec.kind != "conv_transpose2d":
        return weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    # Layout [C_in, C_out / groups, kh, kw]: output channel g * (C_out / groups) + j.
    per_group = gain.reshape(spec.groups, 1, weight.shape[1], 1, 1)
    grouped = weight.reshape(spec.groups, -1, *weight.shape[1:])
    return (grouped * per_group).reshape(weight.shape)


def _can_take(source: fx.Node) -> bool:
    """Whether ``source`` is a layer that only the BatchNorm reads, with the same channel axis."""
    if not is_call(source, WEIGHTED) or len(source.users) != 1:
        return False
    return LAYER_KINDS[source.target] != "linear" or _rank(source) == 2


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return 4 if value is None else int(value.dim())


def _concatenated_vectors(source: Any) -> fx.Node | None:
    """The concatenation of vectors ``[N, C]`` or ``[N, C, 1, 1]`` that gives ``source`` alone."""
    while is_call(source, ORDER_KEEPING) and len(source.users) == 1:
        source = source.args[0]
    if not is_call(source, CONCATENATIONS) or len(source.users) != 1:
        return None
    parts, *axis = source.args
    shapes = [part.meta["val"].shape for part in parts if "val" in part.meta]
    flat = all(len(shape) <= 4 and all(n == 1 for n in shape[2:]) for shape in shapes)
    known = len(shapes) == len(parts) == len(set(parts))
    return source if known and flat and axis and axis[0] in (1, 1 - len(shapes[0])) else None


def _normalise_parts(
    graph_module: fx.GraphModule, node: fx.Node, vectors: fx.Node, gain: Tensor, shift: Tensor
) -> None:
    """Move the BatchNorm ``node`` from behind a concatenation onto each part of it."""
    parts: Any = vectors.args[0]
    sizes = [part.meta["val"].shape[1] for part in parts]
    normalised = []
    for part, g, s in zip(parts, gain.split(sizes), shift.split(sizes), strict=True):
        if _can_take(part):
            _fold_into(graph_module, part, g, s)
            normalised.append(part)
        else:
            normalised.append(_as_layer(graph_module, node, part, g, s, vectors))
    vectors.args = (normalised, *vectors.args[1:])


def _as_layer(
    graph_module: fx.GraphModule,
    node: fx.Node,
    x: fx.Node,
    gain: Tensor,
    shift: Tensor,
    reader: fx.Node | None = None,
) -> fx.Node:
    """A depthwise 1x1 convolution of ``x`` in the place of a BatchNorm; the channel axis is 1.

    It is put before ``reader``, which is ``node`` unless given.
    """
    graph, rank = graph_module.graph, _rank(x)
    if rank > 4:
        raise UnsupportedNetworkError(
            "BatchNorm inputs must have 2 to 4 dimensions",
            f"{rank} at {node.name}",
            "reshape the tensor in the network",
        )
    missing = list(range(rank, 4))
    with graph.inserting_before(reader or node):
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
