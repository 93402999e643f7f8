"""Which layers get more bits: the least damage within a number of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Offer", "allocate"]

_MOST_STATES = 4096


@dataclass(frozen=True)
class Offer:
    """One width of one layer.

    Attributes:
        bits: width of its weights.
        size_bytes: what it takes in the file.
        damage: what it loses, in any unit that adds up.
    """

    bits: int
    size_bytes: int
    damage: float


def allocate(layers: Sequence[Sequence[Offer]], limit_bytes: int) -> tuple[int, ...] | None:
    """Bits per layer with the least sum of damages within ``limit_bytes``.

    A knapsack with one choice per layer, solved over the sums that nothing smaller beats. It is
    exact up to 4,096 of them; beyond, as many stay, evenly spaced by their rank in size.

    Args:
        layers: the offers of each layer, at least one.
        limit_bytes: for all layers together.

    Returns:
        One width per layer, None where even the smallest offers do not fit.
    """
    states: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
    smallest_rest = [min(o.size_bytes for o in offers) for offers in layers]
    for index, offers in enumerate(layers):
        room = limit_bytes - sum(smallest_rest[index + 1 :])
        grown = [
            (size + offer.size_bytes, damage + offer.damage, (*bits, offer.bits))
            for size, damage, bits in states
            for offer in offers
            if size + offer.size_bytes <= room
        ]
        states = _thinned(_undominated(grown))
    return min(states, key=lambda state: state[1])[2] if states else None


def _undominated(
    states: list[tuple[int, float, tuple[int, ...]]],
) -> list[tuple[int, float, tuple[int, ...]]]:
    """By size, each less damaging than all smaller ones."""
    kept: list[tuple[int, float, tuple[int, ...]]] = []
    for state in sorted(states):
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    return kept


def _thinned(
    states: list[tuple[int, float, tuple[int, ...]]],
) -> list[tuple[int, float, tuple[int, ...]]]:
    """At most ``_MOST_STATES``, the smallest and the least damaging among them."""
    if len(states) <= _MOST_STATES:
        return states
    last = len(states) - 1
    return [states[round(i * last / (_MOST_STATES - 1))] for i in range(_MOST_STATES)]
