"""Pass: move scales of activations a little, so that no rounding of a sum or product is a tie.

A quantizer behind an addition, a product, a curved activation or another quantizer rounds a
function of one or two tensors of few integers, and of single stored numbers, so every value that it
can meet is known. So is the limit of a clip in front of it: 6 is 212.5 steps of a range of 7.2 in
255. Runtimes evaluate that function in float32 in different orders, and round what lies nearer to
``k + 1/2`` than their errors to different sides. A nudge of the quantizer's own scale by a part in
10,000 moves all those values off.

An average that has the scale of what it averages, because both are concatenated, meets a tie in
each second to sixteenth value whatever that scale is. A scale of few digits makes its sums and
quotients exact in float32, so that all runtimes round the same number, and a tie to even.

Requires: calibrated quantizers; weights are untied afterwards, with the scales found here.
Ensures: scales within ``MAX_NUDGE`` of what they were, or half a digit of ``exact_digits``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.graph.attributes import tensor_of
from lrq_deploy.graph.clipping import clip_limits
from lrq_deploy.graph.operators import ACTIVATIONS, AVERAGES, RECTIFIERS, SUMS, is_call
from lrq_deploy.graph.roles import sources_of
from lrq_deploy.qparams import QParams, per_channel
from lrq_deploy.student.untie import nearby_scales

__all__ = [
    "Rounded",
    "clearance",
    "clipped_values",
    "exact_digits",
    "rounded_values",
    "untie_activations",
]

aten = torch.ops.aten

CANDIDATES = 1025
AT_ONCE = 64
"""Candidates whose values are in memory together."""

WANTED = 16.0
"""Distance from a tie, in errors, that is far enough to stop searching."""

UNIT = 2.0**-24
"""Largest relative error of one float32 rounding."""

CURVE_ERROR = 16
"""Of a sigmoid or exponential that a runtime approximates, in units relative to the argument."""

LIMIT_ERROR = 4
"""Of the quotient of a limit and a scale, and of the multiples that a runtime makes of it."""

AVERAGED_BITS = 6
"""Of the count of values in an average that is exact."""

_BLENDS = AVERAGES | {aten.upsample_bilinear2d.vec}
_ELEMENTWISE = SUMS | RECTIFIERS | ACTIVATIONS


@dataclass(frozen=True)
class Rounded:
    """Every value that a quantizer may meet at one place.

    Attributes:
        real: values, float64 ``[P]``.
        error: what float32 arithmetic in any order may add to each, float64 ``[P]``.
    """

    real: Tensor
    error: Tensor


def untie_activations(student: fx.GraphModule, entries: dict[str, QParams]) -> None:
    """Nudge the scales in ``entries``, in the order in which the graph needs them."""
    calls: dict[str, list[fx.Node]] = {}
    for node in student.graph.nodes:
        if node.op == "call_module" and str(node.target) in entries:
            calls.setdefault(str(node.target), []).append(node)
    order = {node: number for number, node in enumerate(student.graph.nodes)}
    # A shared quantizer is settled where it is called last: all that it reads is settled by then.
    for name in sorted(calls, key=lambda name: order[calls[name][-1]]):
        if any(_averages_itself(node) for node in calls[name]):
            entries[name] = replace(entries[name], scale=_of_few_digits(entries[name]))
            continue
        found = [rounded_values(node, entries) for node in calls[name]]
        found += [clipped_values(node) for node in calls[name]]
        met = [values for values in found if values is not None]
        if met:
            scale = _untied(met, entries[name])
            entries[name] = replace(entries[name], scale=scale)


def _averages_itself(quantizer: fx.Node) -> bool:
    """Whether the call rounds an average of tensors of the same quantizer."""
    source = quantizer.all_input_nodes[0]
    if not is_call(source, _BLENDS):
        return False
    return any(read.target == quantizer.target for read in sources_of(source.all_input_nodes[0]))


def _of_few_digits(output: QParams) -> Tensor:
    mantissa, exponent = torch.frexp(output.scale)
    one = 2 ** exact_digits(output)
    return torch.ldexp((mantissa * one).round() / one, exponent)


def exact_digits(output: QParams) -> int:
    """Binary digits of a scale with which float32 sums of ``2**AVERAGED_BITS`` values are exact."""
    largest = max(-output.qmin, output.qmax)
    return 24 - AVERAGED_BITS - largest.bit_length()


def rounded_values(quantizer: fx.Node, entries: Mapping[str, QParams]) -> Rounded | None:
    """What the call ``quantizer`` rounds; None where it is a layer's result or the image."""
    source = quantizer.all_input_nodes[0]
    operands = _operands(source)
    if not operands or len(operands) > 2:
        return None
    tables = [entries.get(str(sources_of(tensor)[0].target)) for tensor in operands]
    known = [table for table in tables if table is not None]
    if len(known) != len(tables):
        return None
    grids = _grids(known)
    values = dict(zip(operands, grids, strict=True))
    shape = torch.broadcast_shapes(*(grid.shape for grid in grids))
    real = torch.broadcast_to(_evaluate(source, values), shape)
    terms = _terms(source, values)
    error = _error(source, real, grids, terms, known, entries[str(quantizer.target)])
    return Rounded(real.flatten(), torch.broadcast_to(error, real.shape).flatten())


def clipped_values(quantizer: fx.Node) -> Rounded | None:
    """The limits of the clips in front of a quantizer: whole areas of an image lie on them."""
    limits: list[float] = []
    node = quantizer.all_input_nodes[0]
    while (found := clip_limits(node)) is not None:
        limits += [limit for limit in found if limit]
        node = node.all_input_nodes[0]
    if not limits:
        return None
    real = torch.tensor(limits, dtype=torch.float64)
    return Rounded(real, LIMIT_ERROR * UNIT * real.abs())


def _operands(node: fx.Node) -> list[fx.Node] | None:
    """The quantized tensors that an element-wise expression reads; None for anything else."""
    if _stored(node) is not None:
        return []
    if not is_call(node, _ELEMENTWISE):
        return [node] if sources_of(node)[0].op == "call_module" else None
    found: list[fx.Node] = []
    for tensor in node.all_input_nodes:
        below = _operands(tensor)
        if below is None:
            return None
        found += [operand for operand in below if operand not in found]
    return found


def _grids(tables: list[QParams]) -> list[Tensor]:
    """All reals of each operand, along an axis of its own."""
    grids = []
    for axis, table in enumerate(tables):
        integers = torch.arange(table.qmin, table.qmax + 1) - int(table.zero_point)
        reals = integers.double() * table.scale.double()
        grids.append(per_channel(reals, axis, len(tables)))
    return grids


def _stored(node: fx.Node) -> Tensor | None:
    """A single number that the network stores, float64 ``[]``."""
    owner = node.graph.owning_module
    if node.op != "get_attr" or owner is None:
        return None
    value = tensor_of(owner, node)
    return value.detach().double().reshape([]) if value.numel() == 1 else None


def _terms(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
    """Sizes of what is added up, without regard to what cancels."""
    if node in values or _stored(node) is not None:
        return _evaluate(node, values).abs()
    parts = [_terms(tensor, values) for tensor in node.all_input_nodes]
    if is_call(node, {aten.mul.Tensor}) and len(parts) == 2:
        return parts[0] * parts[1]
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0)


def _evaluate(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
    if node in values:
        return values[node]
    stored = _stored(node)
    if stored is not None:
        return stored
    call: Any = node.target
    arguments = fx.map_arg(node.args, lambda n: _evaluate(n, values))
    result: Tensor = call(*arguments, **node.kwargs)
    return result


def _error(
    source: fx.Node,
    real: Tensor,
    grids: list[Tensor],
    terms: Tensor,
    tables: list[QParams],
    output: QParams,
) -> Tensor:
    """Bound of the float32 error of each value, in reals.

    A kernel may fold zero points in: it multiplies stored integers from 0 and adds a constant,
    so errors are relative to those terms and not to their sum.
    """
    stored = output.scale.double() * (int(output.zero_point) - output.qmin)
    if len(grids) == 1 and is_call(source, ACTIVATIONS):
        return UNIT * (CURVE_ERROR * (grids[0].abs() + real.abs()) + stored)
    if is_call(source, {aten.mul.Tensor}):
        return UNIT * (4 * real.abs() + 2 * stored)
    offsets = sum(t.scale.double() * (int(t.zero_point) - t.qmin) for t in tables)
    return UNIT * (3 * terms + real.abs() + 5 * offsets + 3 * stored)


def _untied(met: list[Rounded], output: QParams) -> Tensor:
    """The nearest scale whose values are all far from ties, else the clearest, shape ``[]``."""
    candidates = nearby_scales(output.scale[None], CANDIDATES)[0]
    clear = torch.stack([clearance(values, candidates, output) for values in met]).amin(0)
    enough = clear >= WANTED
    best = enough.int().argmax() if bool(enough.any()) else clear.argmax()
    return candidates[best]


def clearance(values: Rounded, candidates: Tensor, output: QParams) -> Tensor:
    """Smallest distance to a tie, in errors of the value, for each scale ``[K]``.

    Only ties within the range of the output count.
    """
    scales = candidates.double()
    low = output.qmin - int(output.zero_point)
    high = output.qmax - int(output.zero_point)
    steps = values.real / scales[0]
    reach = WANTED * values.error / scales[0]
    # Most values stay far from a tie under every candidate.
    span = float((scales / scales[0] - 1).abs().max())
    near = _gap(steps) <= steps.abs() * span + reach
    near &= (steps > low) & (steps < high)
    if not bool(near.any()):
        return torch.full(candidates.shape, torch.inf, dtype=torch.float64)
    real, error = values.real[near], values.error[near]
    parts = [
        (_gap(real / some[:, None]) * some[:, None] / error).amin(1)
        for some in scales.split(AT_ONCE)
    ]
    return torch.cat(parts)


def _gap(steps: Tensor) -> Tensor:
    return ((steps - 0.5).round() + 0.5 - steps).abs()
