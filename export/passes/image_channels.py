"""Convolutions that read few channels get as many as the kernel multiplies in place."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lrq_deploy.export.passes._matching import (
    add_initializer,
    constant,
    is_weight,
    stated_name,
)

__all__ = ["ImageChannelsPass"]

_MULTIPLE = 4
"""ONNX Runtime's integer kernels read pixels in place where their channels are a multiple of it;
others are first copied into a matrix, tap by tap."""
_FEWEST_OUTPUTS = 16
"""Fewer output channels take another kernel, which gains nothing (docs/experiments/latency.md)."""
_LONGEST_ROW = {"padded": 24, "blocks": 40}
"""Bytes of a row of taps up to which a layout beat the copy (docs/experiments/latency.md)."""
_BLOCK_GAIN = 1.2
"""Blocks may take this many times the products: their runs are longer."""


@dataclass(frozen=True)
class _Layout:
    """How the input of a convolution is laid out.

    Attributes:
        block: side of the squares of pixels that become channels; 1 leaves pixels alone.
        channels: of a pixel, those of zeros included.
        kernel: rows and columns of the new kernel, in blocks.
        pads: what is added to the image: top, left, bottom, right; negative ones cut off.
    """

    block: int
    channels: int
    kernel: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def products(self) -> int:
        """Of one output value."""
        return self.kernel[0] * self.kernel[1] * self.channels * self.block**2


class ImageChannelsPass(ir.passes.InPlacePass):
    """``Conv`` -> ``Pad`` -> ``Conv``, or ``Pad`` -> ``SpaceToDepth`` -> ``Conv`` of stride 1.

    The first layer of most networks reads 3 channels and runs at half the speed of the others.
    Channels of zeros make it 4; where the stride is s and the kernel large, squares of s x s
    pixels become channels instead, and the weight ``[O, C, s*a, s*b]``, filled up with zeros,
    becomes ``[O, s*s*C, a, b]``. Either way the sums are those of the same products.

    Args:
        squares: whether squares of pixels may become channels.

    Requires: weights are neutral.
    Ensures: the same integers.
    """

    def __init__(self, squares: bool = True) -> None:
        super().__init__()
        self._squares = squares

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite every matching convolution."""
        modified = False
        for node in list(model.graph):
            layout = _layout_of(node, self._squares)
            if layout is not None:
                _rewrite(model.graph, node, layout)
                modified = True
        return ir.passes.PassResult(model, modified)


def _layout_of(node: ir.Node, squares: bool) -> _Layout | None:
    """The cheapest layout of the input; None where the layer is better left alone."""
    if node.op_type != "Conv" or node.domain != "":
        return None
    x, weight = node.inputs[:2]
    if x is None or weight is None or not is_weight(weight.producer()):
        return None
    image, result, kernel = _static(x, 1), _static(node.outputs[0], 1), _static(weight, 0)
    if len(image) != 3 or len(result) != 3 or len(kernel) != 4:
        return None
    outputs, channels, *taps = kernel
    strides = _integers(node, "strides", [1, 1])
    plain = (
        _integers(node, "dilations", [1, 1]) == [1, 1]
        and channels == image[0]
        and strides[0] == strides[1]
        and _pads_are_stated(node)
    )
    copied = channels % _MULTIPLE and max(taps) > 1
    if not plain or not copied or outputs < _FEWEST_OUTPUTS:
        return None
    block, row = strides[0], channels * taps[1]
    padded = _Layout(1, channels + -channels % _MULTIPLE, (taps[0], taps[1]), (0, 0, 0, 0))
    otherwise = padded if row < _LONGEST_ROW["padded"] else None
    fits = block > 1 and channels * block**2 % _MULTIPLE == 0 and row < _LONGEST_ROW["blocks"]
    if not (squares and fits):
        return otherwise
    top, left = _integers(node, "pads", [0] * 4)[:2]
    rows, columns = (-(-size // block) for size in taps)
    bottom = block * (result[1] - 1 + rows) - image[1] - top
    right = block * (result[2] - 1 + columns) - image[2] - left
    blocks = _Layout(block, channels, (rows, columns), (top, left, bottom, right))
    return blocks if blocks.products <= _BLOCK_GAIN * padded.products else otherwise


def _pads_are_stated(node: ir.Node) -> bool:
    automatic = node.attributes.get("auto_pad")
    return automatic is None or automatic.as_string() == "NOTSET"


def _static(value: ir.Value, first: int) -> list[int]:
    """Sizes from axis ``first`` on, empty where one is not known."""
    sizes = [] if value.shape is None else list(value.shape)[first:]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else []


def _integers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def _rewrite(graph: ir.Graph, node: ir.Node, layout: _Layout) -> None:
    x, weight = node.inputs[0], node.inputs[1]
    producer = None if weight is None else weight.producer()
    stored = None if producer is None else constant(producer.inputs[0])
    if x is None or x.shape is None or weight is None or producer is None or stored is None:
        return
    name, batch = stated_name(producer), x.shape[0]
    arranged = _arranged(stored, layout)
    producer.replace_input_with(0, add_initializer(graph, f"{name}.weight_arranged", arranged))
    weight.shape = ir.Shape(arranged.shape)
    top, left, bottom, right = layout.pads
    extra = layout.channels - stored.shape[1]
    amounts = np.asarray([0, 0, top, left, 0, extra, bottom, right], np.int64)
    _, _, height, width = (s if isinstance(s, int) else 0 for s in x.shape)
    sizes = (layout.channels, top + height + bottom, left + width + right)
    pads = add_initializer(graph, f"{name}.pads", amounts)
    pad = _node("Pad", [x, pads], {}, f"{name}.padded", [batch, *sizes])
    new = [pad]
    if layout.block > 1:
        side = layout.block
        blocks = [batch, sizes[0] * side**2, sizes[1] // side, sizes[2] // side]
        new.append(
            _node("SpaceToDepth", [pad.outputs[0]], {"blocksize": side}, f"{name}.blocks", blocks)
        )
        node.attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * 4)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(layout.kernel))
    graph.insert_before(node, new)
    node.replace_input_with(0, new[-1].outputs[0])


def _node(
    op_type: str,
    inputs: list[ir.Value],
    attributes: dict[str, int],
    name: str,
    shape: list[int | ir.SymbolicDim],
) -> ir.Node:
    output = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    return ir.node(op_type, inputs, attributes, outputs=[output], name=name)


def _arranged(weight: NDArray[np.int8], layout: _Layout) -> NDArray[np.int8]:
    """``[O, C, h, w]`` as the layout's ``[O, block * block * channels, *kernel]``.

    SpaceToDepth orders its channels by row in the block, column in the block, channel (DCR).
    """
    outputs, channels, high, wide = weight.shape
    (rows, columns), side = layout.kernel, layout.block
    whole = np.zeros((outputs, layout.channels, rows * side, columns * side), weight.dtype)
    whole[:, :channels, :high, :wide] = weight
    parts = whole.reshape(outputs, layout.channels, rows, side, columns, side)
    ordered = parts.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, -1, rows, columns)
    return np.ascontiguousarray(ordered)
