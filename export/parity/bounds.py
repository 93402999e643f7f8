"""How equal the forms of one student must be: integers wholly, floats as far as float32 goes."""

from dataclasses import dataclass, replace

from lrq_deploy.export.measures.intervals import share_interval
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.graph.operators import (
    ACTIVATIONS,
    NON_NEGATIVE,
    RECTIFIERS,
    all_known,
    is_call,
)
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import weight_only_layers

__all__ = [
    "FLOAT_GRAPH",
    "FLOAT_SUMS",
    "MIN_SAME_ROWS",
    "MIN_SAME_ROWS_NARROW",
    "MIN_SAME_TOP1",
    "Bound",
    "as_close_as",
    "integer_bound",
    "with_ties_of",
]

MIN_SAME_TOP1 = 0.999
"""Bound of the project. A rounding tie that falls differently may move a tensor by one step."""

MIN_SAME_ROWS_NARROW = 0.99
"""Rows of the same integers where weights and activations have at most 4 bits: few values, so few
ties, and no pair of products can saturate. Within chance behind a curve."""

MIN_SAME_ROWS = 0.95
"""The same of more bits, within chance: answers alone do not tell a layer that is a percent off."""

_NARROW_BITS = 4

_CURVES = (ACTIVATIONS | NON_NEGATIVE) - RECTIFIERS

_TIMES_THE_TIES = 3
"""Measured were up to two (resnet18 at 8 bits), by another order of the sums that torch adds."""


@dataclass(frozen=True)
class Bound:
    """What a form must reach.

    Attributes:
        same_top1: share of images with the same answer, 0..1.
        same_rows: share of images with the same integers, 0..1.
        within_chance: whether the upper end of the interval (95 %) of the first is what must reach
            it, for forms that add floats: a few images do not tell a rare tie from a fault.
        rows_within_chance: the same of the second.
    """

    same_top1: float = MIN_SAME_TOP1
    same_rows: float = 0.0
    within_chance: bool = False
    rows_within_chance: bool = False

    def holds(self, parity: Parity) -> bool:
        """Whether a comparison reaches both."""
        top1, rows = parity.same_top1, parity.same_rows
        if self.within_chance:
            top1 = share_interval(top1, parity.count)[1]
        if self.rows_within_chance:
            rows = share_interval(rows, parity.count)[1]
        return top1 >= self.same_top1 and rows >= self.same_rows

    def describe(self) -> str:
        """For instance ``top-1 >= 99.9 %, rows >= 99 %``."""
        chance, by_chance = (
            " within chance" if lenient else ""
            for lenient in (self.within_chance, self.rows_within_chance)
        )
        parts = [f"top-1 >= {100 * self.same_top1:.4g} %{chance}"]
        if self.same_rows:
            parts.append(f"rows >= {100 * self.same_rows:.4g} %{by_chance}")
        return ", ".join(parts)


FLOAT_SUMS = Bound(within_chance=True)
"""Of forms whose float32 sums may fall on the other side of a rounding tie."""

FLOAT_GRAPH = replace(FLOAT_SUMS, same_rows=MIN_SAME_ROWS, rows_within_chance=True)
"""Of graphs that ONNX Runtime runs as they are written: no builder chooses where they round."""


def integer_bound(model: QuantizedModel) -> Bound:
    """Of the fused graph of ONNX Runtime, whose layers add integers."""
    # Layers that are kept in float may round to either side of a tie.
    if model.float_layers() or weight_only_layers(model):
        return Bound()
    narrow = max(model.scheme.weight_bits, model.scheme.act_bits) <= _NARROW_BITS
    rows = MIN_SAME_ROWS_NARROW if narrow else MIN_SAME_ROWS
    return Bound(same_rows=rows, rows_within_chance=not narrow or _curved(model))


def _curved(model: QuantizedModel) -> bool:
    """Whether anything between quantizers is evaluated in float or by a table, so may meet ties."""
    nodes = model.graph.graph.nodes
    return not all_known(model.graph.graph) or any(is_call(node, _CURVES) for node in nodes)


def with_ties_of(simulation: Parity, bound: Bound) -> Bound:
    """Where torch's float32 meets ties that no scale avoids, so may a graph of many integers.

    A form that adds floats itself meets ties of its own: rows are the same where neither does.
    """
    if not bound.rows_within_chance:
        return bound
    reached = share_interval(simulation.same_rows, simulation.count)[0]
    if bound.within_chance:
        reached **= _TIMES_THE_TIES
    return replace(bound, same_rows=min(reached, bound.same_rows))


def as_close_as(simulation: Parity) -> Bound:
    """Of a student that computes in floats between its quantizers (attention, LayerNorm).

    No two orders of such sums agree there, and each step that differs moves the next ones. A form
    must give as many of the exact student's answers as torch's float32 does, within chance.
    """
    reached = share_interval(simulation.same_top1, simulation.count)[0]
    return Bound(min(reached, MIN_SAME_TOP1), within_chance=True)
