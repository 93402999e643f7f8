"""What each ATen operator does to the integers of a tensor."""

import operator
from typing import Any, Literal

import torch
from torch import fx

__all__ = [
    "ACTIVATIONS",
    "AVERAGES",
    "BATCH_NORMS",
    "CONCATENATIONS",
    "IDENTITIES",
    "LAYER_KINDS",
    "MOVEMENTS",
    "NON_NEGATIVE",
    "ORDER_KEEPING",
    "RECTIFIERS",
    "SUMS",
    "VIEWS",
    "WEIGHTED",
    "LayerKind",
    "all_known",
    "arguments",
    "exponent",
    "is_call",
    "is_movement",
    "tensor_inputs",
]

aten = torch.ops.aten

LayerKind = Literal["conv2d", "linear", "conv_transpose2d"]

LAYER_KINDS: dict[Any, LayerKind] = {
    aten.conv2d.default: "conv2d",
    aten.linear.default: "linear",
    aten.conv_transpose2d.input: "conv_transpose2d",
}
"""Operators that multiply by stored weights, and the layer kind of each."""

WEIGHTED = set(LAYER_KINDS)

BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}

VIEWS = {aten.view.default, aten._unsafe_view.default, aten.reshape.default}
"""Names of the one operator that states a new shape."""

ORDER_KEEPING = VIEWS | {
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
}
"""Movements behind which a tensor of the old shape holds the old values in the old places."""

_TUPLES = {
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.adaptive_max_pool2d.default,
}
"""Movements that return several tensors, picked by ``operator.getitem``."""

MOVEMENTS = (
    ORDER_KEEPING
    | _TUPLES
    | {
        aten.slice.Tensor,
        aten.select.int,
        aten.permute.default,
        aten.transpose.int,
        aten.unflatten.int,
        aten.max_pool2d.default,
        aten.amax.default,
        aten.pad.default,
        aten.constant_pad_nd.default,
        aten.reflection_pad2d.default,
        aten.replication_pad2d.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
        aten.expand.default,
        aten.clone.default,
        aten.index_select.default,
    }
)
"""Operators whose output holds only values of their input, or 0: a quantizer commutes with them.

Padding with another constant is no movement, see ``is_movement``."""

IDENTITIES = {
    aten.clone.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
}
"""Operators that do nothing to the numbers of a network in evaluation mode."""

CONCATENATIONS = {aten.cat.default}

SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}
"""Element-wise operators on two tensors that runtimes execute in integers."""

AVERAGES = {
    aten.adaptive_avg_pool2d.default,
    aten.avg_pool2d.default,
    aten.mean.dim,
}

RECTIFIERS = {
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
}
"""Clipping activations: a quantizer behind them absorbs them or follows without loss."""

ACTIVATIONS = {
    aten.hardswish.default,
    aten.silu.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.gelu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.mish.default,
    aten.tanh.default,
    aten.softplus.default,
    aten.prelu.default,
}
"""Curved activations: runtimes evaluate them in float or by a table of 256 entries."""

NON_NEGATIVE = {
    aten.relu.default,
    aten.relu6.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.softmax.int,
    aten._softmax.default,
    aten.exp.default,
    aten.abs.default,
}


_SIZE_ARITHMETIC = {operator.add, operator.floordiv, operator.mul, operator.sub}

_KNOWN = {operator.getitem, aten.sym_size.int}.union(
    WEIGHTED,
    BATCH_NORMS,
    MOVEMENTS,
    IDENTITIES,
    CONCATENATIONS,
    SUMS,
    AVERAGES,
    RECTIFIERS,
    ACTIVATIONS,
    NON_NEGATIVE,
)


def all_known(graph: fx.Graph) -> bool:
    """Whether every call is of an operator named here; ONNX has a form for each of those."""
    return all(node.target in _KNOWN for node in graph.nodes if node.op == "call_function")


def is_call(node: fx.Node, targets: Any) -> bool:
    """Whether ``node`` calls one of ``targets``."""
    return node.op == "call_function" and node.target in targets


def arguments(node: fx.Node) -> list[Any]:
    """Arguments of an ATen call, with those that it leaves out as the schema states them."""
    target: Any = node.target
    rest = target._schema.arguments[len(node.args) :]
    return [*node.args, *(node.kwargs.get(x.name, x.default_value) for x in rest)]


def is_movement(node: fx.Node) -> bool:
    """Whether ``node`` only moves values of its (first) input, or pads them with 0."""
    if node.target is operator.getitem:
        return is_call(node.all_input_nodes[0], _TUPLES)
    if is_call(node, {aten.constant_pad_nd.default}):
        return arguments(node)[2] in (0, None)
    if is_call(node, {aten.pad.default}):
        _, _, mode, fill = arguments(node)
        return bool(mode != "constant" or fill in (0, None))
    return is_call(node, MOVEMENTS)


def exponent(node: fx.Node) -> float:
    """Of a power, 1 for other operators."""
    stated: Any = node.args[1] if is_call(node, {aten.pow.Tensor_Scalar}) else 1
    return stated if isinstance(stated, int | float) else 1


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Inputs of ``node`` that are computed from the image, in order, without repeats."""
    return [n for n in node.all_input_nodes if n.op != "get_attr" and not _is_size(n)]


def _is_size(node: fx.Node) -> bool:
    """Whether ``node`` is a number made of sizes of the image, such as the batch times 4."""
    if is_call(node, _SIZE_ARITHMETIC):
        return all(_is_size(n) for n in node.all_input_nodes)
    return is_call(node, {aten.sym_size.int})
