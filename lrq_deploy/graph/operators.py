"""What each ATen operator does to the integers of a tensor."""

from typing import Any

import torch
from torch import fx

from lrq_deploy.student.frozen import LayerKind

__all__ = [
    "ACTIVATIONS",
    "AVERAGES",
    "BATCH_NORMS",
    "CONCATENATIONS",
    "IDENTITIES",
    "LAYER_KINDS",
    "MOVEMENTS",
    "NON_NEGATIVE",
    "RECTIFIERS",
    "SUMS",
    "WEIGHTED",
    "is_call",
    "tensor_inputs",
]

aten = torch.ops.aten

LAYER_KINDS: dict[Any, LayerKind] = {
    aten.conv2d.default: "conv2d",
    aten.linear.default: "linear",
    aten.conv_transpose2d.input: "conv_transpose2d",
}
"""Operators that multiply by stored weights, and the layer kind of each."""

WEIGHTED = set(LAYER_KINDS)

BATCH_NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}

MOVEMENTS = {
    aten.slice.Tensor,
    aten.select.int,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.max_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.pixel_shuffle.default,
    aten.channel_shuffle.default,
    aten.expand.default,
    aten.clone.default,
    aten.index_select.default,
}
"""Operators whose output holds only values of their input, or 0: a quantizer commutes with them."""

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

CONCATENATIONS = {aten.cat.default, aten.concat.default}

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
    aten.abs.default,
}


def is_call(node: fx.Node, targets: Any) -> bool:
    """Whether ``node`` calls one of ``targets``."""
    return node.op == "call_function" and node.target in targets


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Inputs of ``node`` that are computed from the image, in order, without repeats."""
    return [n for n in node.all_input_nodes if n.op != "get_attr" and not _is_size(n)]


def _is_size(node: fx.Node) -> bool:
    return is_call(node, {aten.sym_size.int})
