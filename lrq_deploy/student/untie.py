"""Pass: move scales a little, so that no rounding of a layer's result is a tie.

A layer's result is ``v = acc * M`` with an integer ``acc`` and ``M = scale_x * scale_w / scale_y``;
the quantizer rounds it. Where ``acc * M`` falls on ``k + 1/2`` up to the rounding errors of
float32, two runtimes may round to different sides, and they do so on every image where that
``acc`` occurs. There are as many halves as levels, so a nudge of ``scale_w`` by a part in
10,000 per channel, far below the resolution of the weights, finds an ``M`` without such ``acc``.

Requires: a frozen graph.
Ensures: the same integer weights and biases; scales within ``MAX_NUDGE`` of what they were.
"""

from dataclasses import replace

import torch
from torch import Tensor, fx

from lrq_deploy.graph.called_modules import called_module
from lrq_deploy.graph.operators import RECTIFIERS, is_call
from lrq_deploy.qparams import QParams, ScaleTable
from lrq_deploy.student.frozen import FrozenLayer, FrozenQuantizer

__all__ = ["MAX_NUDGE", "count_ties", "nearby_scales", "untie", "untie_scales"]

MAX_NUDGE = 2.0**-14
CANDIDATES = 129
RELATIVE_ERROR = 4 * 2.0**-24
"""Of ``v`` in a runtime: products and quotient of three scales and the product with ``acc``,
each rounded to float32 once (half a unit in the last place is 2**-24)."""

LOOSE_FACTOR = 16
"""A float32 convolution adds many rounded products and errs about this many times more."""


def untie(frozen: fx.GraphModule, table: ScaleTable) -> ScaleTable:
    """Nudge the scales of every layer whose result is quantized; returns the new table."""
    entries: dict[str, QParams] = dict(table.entries)
    for node in frozen.graph.nodes:
        layer = called_module(frozen, node)
        quantizer = _only_quantizer(frozen, node)
        if not isinstance(layer, FrozenLayer) or quantizer is None:
            continue
        scale = untie_scales(
            entries[layer.input_quantizer].scale, layer.weight_scale, quantizer.qparams
        )
        name = str(node.target)
        if layer.bias is not None:
            factor = (scale.double() / layer.weight_scale.double()).repeat(
                layer.bias.numel() // scale.numel()
            )
            layer.bias.copy_(layer.bias.double() * factor)
        layer.weight_scale.copy_(scale)
        layer.qparams = entries[name] = replace(entries[name], scale=scale)
    return ScaleTable(entries)


def nearby_scales(scale: Tensor, count: int = CANDIDATES) -> Tensor:
    """Scales within ``MAX_NUDGE`` of ``scale`` ``[C]``, the nearest first: ``[C, count]``."""
    steps = torch.arange(count, dtype=torch.float64)
    # 0, 1, -1, 2, -2, ...: the first of equals is the nearest.
    offsets = torch.where(steps % 2 == 1, (steps + 1) / 2, -steps / 2)
    factors = 1 + offsets / (count // 2) * MAX_NUDGE
    return (scale.double()[:, None] * factors).to(torch.float32)


def untie_scales(scale_x: Tensor, scale_w: Tensor, output: QParams) -> Tensor:
    """The nearest weight scales with the fewest ties, float32 ``[C]``.

    Args:
        scale_x: of the layer's input, shape ``[]``.
        scale_w: per output channel, ``[C]``.
        output: quantizer of the layer's result.
    """
    candidates = nearby_scales(scale_w)
    cost = torch.stack([_cost(scale_x, column, output) for column in candidates.unbind(1)])
    return candidates.gather(1, cost.argmin(0)[:, None])[:, 0]


def _cost(scale_x: Tensor, scale_w: Tensor, output: QParams) -> Tensor:
    """Ties first; among equals, what a simulation in float32 may take for ties."""
    ties = count_ties(scale_x, scale_w, output)
    near = count_ties(scale_x, scale_w, output, LOOSE_FACTOR * RELATIVE_ERROR)
    return ties * (output.qmax - output.qmin + 1) + near


def count_ties(
    scale_x: Tensor, scale_w: Tensor, output: QParams, relative_error: float = RELATIVE_ERROR
) -> Tensor:
    """How many halves of the output's range an integer accumulator can meet, ``[C]``."""
    zero_point = int(output.zero_point)
    halves = torch.arange(output.qmin - zero_point, output.qmax - zero_point) + 0.5
    halves = halves.double()
    multiplier = (scale_x.double() * scale_w.double() / output.scale.double())[:, None]
    gap = (torch.round(halves / multiplier) * multiplier - halves).abs()
    return (gap <= halves.abs() * relative_error).sum(1)


def _only_quantizer(frozen: fx.GraphModule, node: fx.Node) -> FrozenQuantizer | None:
    """The quantizer that alone reads a node, behind clipping that is wider than its range."""
    readers = list(node.users)
    while len(readers) == 1 and is_call(readers[0], RECTIFIERS):
        readers = list(readers[0].users)
    quantizer = called_module(frozen, readers[0]) if len(readers) == 1 else None
    return quantizer if isinstance(quantizer, FrozenQuantizer) else None
