"""How sizes compare, and which widths of weights have the same."""

from lrq_deploy.scheme import stored_bits

__all__ = ["size_change", "wider_in_same_room"]


def size_change(before: int, after: int) -> str:
    """How much smaller ``after`` bytes are, or how much larger where names outweigh weights."""
    before, after = max(before, 1), max(after, 1)
    if after <= before:
        return f"{before / after:.1f} x smaller"
    return f"{after / before:.1f} x larger"


def wider_in_same_room(weight_bits: int) -> int | None:
    """The widest weights that make the file no larger; ``None`` where these are the widest."""
    widest = stored_bits(weight_bits)
    return widest if weight_bits < widest else None
