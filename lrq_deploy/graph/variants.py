"""Pass: one operator for one function.

Requires: constants are folded.
Ensures: weighted layers are ``conv2d.default``, ``conv_transpose2d.input`` or
``linear.default`` with stored weights; maximum pooling is ``max_pool2d.default`` and a maximum
along an axis ``amax.default``; a gated linear unit is a product; limits of floats are floats; a
stored exponent is a number; an operator of two names has the usual one. The graph computes the
same. Archives decomposed to core ATen then look like any other network.
"""

import operator
from typing import Any

import torch
from torch import fx

from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.graph.attributes import add_tensor_node, layer_of, tensor_of
from lrq_deploy.graph.linear_forms import PRODUCTS, as_linear
from lrq_deploy.graph.operators import RECTIFIERS, WEIGHTED, arguments, is_call
from lrq_deploy.graph.replacement import replace_call

__all__ = ["unify_variants"]

aten = torch.ops.aten

_USUAL_NAMES: dict[Any, Any] = {
    aten.clip.default: aten.clamp.default,
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
    aten.divide.Tensor: aten.div.Tensor,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.special_expit.default: aten.sigmoid.default,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.true_divide.Tensor: aten.div.Tensor,
}
"""Aliases with the arguments of what they stand for."""

_ANY_CONVOLUTION = {
    aten.convolution.default,
    aten._convolution.default,
    aten._convolution.deprecated,
}
_BY_NAME = {3: aten.conv1d.padding, 4: aten.conv2d.padding}
"""By the rank of the weight."""

_OTHER_RANKS = {
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose3d.input,
}


def unify_variants(graph_module: fx.GraphModule) -> None:
    """Apply the pass in place.

    Raises:
        UnsupportedNetworkError: a convolution is not two-dimensional, or a layer's weight is
            computed from the image.
    """
    for node in list(graph_module.graph.nodes):
        node.target = _USUAL_NAMES.get(node.target, node.target)
        if is_call(node, {aten._convolution_mode.default}):
            _state_rank(graph_module, node)
        if is_call(node, _ANY_CONVOLUTION):
            _split_convolution(graph_module, node)
        elif is_call(node, {aten.conv1d.default, aten.conv1d.padding}):
            _add_a_side(graph_module, node)
        elif is_call(node, {aten.conv2d.padding}):
            _state_padding(graph_module, node)
        elif is_call(node, PRODUCTS):
            as_linear(graph_module, node)
        elif is_call(node, {aten.max_pool2d_with_indices.default}):
            _drop_indices(node, aten.max_pool2d.default, node.args)
        elif is_call(node, {aten.max.dim}):
            x, axis, *keep = node.args
            _drop_indices(node, aten.amax.default, (x, [axis], *keep))
        elif is_call(node, {aten.scaled_dot_product_attention.default}):
            _four_axes(graph_module, node)
        elif is_call(node, {aten.rrelu.default}):
            _fix_slope(node)
        elif is_call(node, {aten.squeeze.default}):
            _state_axes(node)
        elif is_call(node, {aten.glu.default}):
            _state_gate(node)
        elif is_call(node, RECTIFIERS):
            _state_limits(node)
        elif is_call(node, {aten.pow.Tensor_Tensor}):
            _state_exponent(graph_module, node)
        elif is_call(node, _OTHER_RANKS):
            raise _wrong_rank(str(node.target))
    graph_module.graph.eliminate_dead_code()
    for node in graph_module.graph.nodes:
        if is_call(node, WEIGHTED):
            _check_stored(node)


def _state_rank(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """``_convolution_mode``, which traces of TorchScript hold, has its padding by name."""
    _check_stored(node)
    rank = tensor_of(graph_module, node.args[1]).dim()
    if rank not in _BY_NAME:
        raise _wrong_rank(f"a convolution over {rank - 2} dimensions")
    node.target = _BY_NAME[rank]


def _split_convolution(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """``convolution`` states transposition by a flag and any rank by its lists.

    ``_convolution``, which traces of TorchScript hold, has flags of cuDNN behind these arguments.
    """
    args: list[Any] = list(node.args[:9])
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
    if len(stride) == 1 and not transposed:
        node.target = aten.conv1d.default
        node.args = (x, weight, bias, stride, padding, dilation, groups)
        _add_a_side(graph_module, node)
        return
    if len(stride) != 2:
        raise _wrong_rank(f"a convolution over {len(stride)} dimensions")
    target, rest = aten.conv2d.default, [stride, padding, dilation, groups]
    if transposed:
        target = aten.conv_transpose2d.input
        rest = [stride, padding, output_padding, groups, dilation]
    replace_call(node, target, (x, weight, bias, *rest))


def _add_a_side(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A convolution over rows is one over images of one column."""
    _check_stored(node)
    x, weight, bias, stride, padding, dilation, groups = arguments(node)
    graph = graph_module.graph
    with graph.inserting_before(node):
        kernel = tensor_of(graph_module, weight).unsqueeze(-1)
        stored = add_tensor_node(graph_module, f"{weight.target}_column", kernel)
        stored.meta["layer"] = layer_of(weight)
        image = graph.call_function(aten.unsqueeze.default, (x, -1))
        named = isinstance(padding, str)
        target = aten.conv2d.padding if named else aten.conv2d.default
        sides = ([*stride, 1], padding if named else [*padding, 0], [*dilation, 1], groups)
        result = graph.call_function(target, (image, stored, bias, *sides))
    for made, source in ((image, x), (result, node)):
        if "val" in source.meta:
            made.meta["val"] = source.meta["val"].unsqueeze(-1)
    replace_call(node, aten.squeeze.dim, (result, -1))
    if named:
        _state_padding(graph_module, result)


def _state_padding(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """``valid`` is no padding; ``same`` adds ``dilation * (kernel - 1)``, the odd one behind."""
    x, weight, bias, stride, padding, dilation, groups = arguments(node)
    before = [0, 0]
    if padding == "same":
        kernel = tensor_of(graph_module, weight).shape[2:]
        spread = [dilation[axis % len(dilation)] for axis in range(2)]
        total = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
        before = [t // 2 for t in total]
        behind = [t - b for t, b in zip(total, before, strict=True)]
        if behind != before:
            sides = [before[1], behind[1], before[0], behind[0]]
            with graph_module.graph.inserting_before(node):
                x = graph_module.graph.call_function(aten.constant_pad_nd.default, (x, sides))
            before = [0, 0]
    replace_call(node, aten.conv2d.default, (x, weight, bias, stride, before, dilation, groups))


def _drop_indices(node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    """A maximum whose positions nobody reads is ``target(*args)``."""
    values = [u for u in node.users if u.target is operator.getitem and u.args[1] == 0]
    if len(values) != len(node.users):
        return
    with node.graph.inserting_before(node):
        pooled = node.graph.call_function(target, args)
    for value in values:
        pooled.meta = dict(value.meta)
        value.replace_all_uses_with(pooled)
        node.graph.erase_node(value)
    node.graph.erase_node(node)


def _fix_slope(node: fx.Node) -> None:
    """In evaluation the random slope of RReLU is the middle of its range."""
    x, lowest, highest, *_ = arguments(node)
    replace_call(node, aten.leaky_relu.default, (x, (lowest + highest) / 2))


def _four_axes(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Attention over any leading axes as ``[N, heads, L, C]``, which exporters know."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() in (2, 4):
        return
    axes = value.dim()
    parts, options = list(node.args), dict(node.kwargs)
    if len(parts) < 4 and options.get("attn_mask") is not None:
        parts += [options.pop("attn_mask")]
    known = [_known(graph_module, part) for part in parts[:4] if isinstance(part, fx.Node)]
    if not all(_fits_axes(tensor, axes, value.shape) for tensor in known):
        return
    graph = node.graph
    with graph.inserting_before(node):
        for place, part in enumerate(parts[:4]):
            if isinstance(part, fx.Node) and _known(graph_module, part).dim() == axes:
                one = (aten.unsqueeze.default, (part, 1))
                all_but_four = (aten.flatten.using_ints, (part, 0, axes - 4))
                parts[place] = graph.call_function(*(one if axes == 3 else all_but_four))
        attended = graph.call_function(node.target, tuple(parts), options)  # type: ignore[arg-type]
    if axes == 3:
        replace_call(node, aten.squeeze.dims, (attended, [1]))
    else:
        replace_call(node, aten.reshape.default, (attended, [-1, *value.shape[1:]]))


def _known(graph_module: fx.GraphModule, node: fx.Node) -> Any:
    """A tensor of the shape of ``node``, where it has one."""
    return tensor_of(graph_module, node) if node.op == "get_attr" else node.meta.get("val")


def _fits_axes(value: Any, axes: int, shape: torch.Size) -> bool:
    """Whether a tensor has all leading axes of an attention, or a mask none of them."""
    if not isinstance(value, torch.Tensor):
        return False
    if axes == 3 or value.dim() < axes:
        return value.dim() <= 3
    leading, others = (list(map(str, sizes[: axes - 3])) for sizes in (shape, value.shape))
    return leading == others and all(isinstance(size, int) for size in shape[1:])


def _state_axes(node: fx.Node) -> None:
    """``x.squeeze()`` drops the sides of 1 that the trace has; a batch of one image stays."""
    value = node.args[0].meta.get("val")  # type: ignore[union-attr]
    if isinstance(value, torch.Tensor):
        sides = [axis for axis, size in enumerate(value.shape) if axis and size == 1]
        replace_call(node, aten.squeeze.dims, (node.args[0], sides))


def _state_gate(node: fx.Node) -> None:
    """``glu(x)`` is one half of ``x`` times the sigmoid of the other."""
    x, axis = arguments(node)
    graph = node.graph
    with graph.inserting_before(node):
        halves = graph.call_function(aten.chunk.default, (x, 2, axis))
        kept, read = (graph.call_function(operator.getitem, (halves, place)) for place in (0, 1))
        gate = graph.call_function(aten.sigmoid.default, (read,))
    replace_call(node, aten.mul.Tensor, (kept, gate))


def _state_limits(node: fx.Node) -> None:
    """``clamp(0, 6.0)`` has limits of one type, as torch's exporter to ONNX wants them."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        x, *limits = node.args
        node.args = (x, *(float(n) if isinstance(n, int) else n for n in limits))


def _state_exponent(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A stored exponent, as that of GeM pooling, is a number."""
    x, exponent = node.args
    if not isinstance(x, fx.Node) or not isinstance(exponent, fx.Node) or exponent.op != "get_attr":
        return
    stored = tensor_of(graph_module, exponent)
    if stored.numel() == 1 and stored.dim() <= x.meta["val"].dim():
        replace_call(node, aten.pow.Tensor_Scalar, (x, float(stored)))


def _check_stored(node: fx.Node) -> None:
    weights = [a for a in node.args[1:3] if isinstance(a, fx.Node)]
    if not isinstance(node.args[1], fx.Node) or any(n.op != "get_attr" for n in weights):
        raise UnsupportedNetworkError(
            "the weights of every convolution and linear layer must be stored",
            f"weights computed from the image at {node.name}",
            "quantize a network without dynamic weights",
        )


def _wrong_rank(received: str) -> UnsupportedNetworkError:
    return UnsupportedNetworkError(
        "convolutions must be two-dimensional",
        received,
        "rewrite it as a Conv2d with a kernel side of 1",
    )
