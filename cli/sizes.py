"""Sizes in words."""

__all__ = ["size_change", "size_text"]

_KIB = 1024


def size_text(count: int) -> str:
    """Bytes in the unit that suits."""
    if count < _KIB * _KIB:
        return f"{count / _KIB:.1f} KiB"
    return f"{count / _KIB / _KIB:.2f} MiB"


def size_change(before: int, after: int) -> str:
    """How much smaller ``after`` bytes are, or how much larger where names outweigh weights."""
    before, after = max(before, 1), max(after, 1)
    if after <= before:
        return f"{before / after:.1f} x smaller"
    return f"{after / before:.1f} x larger"
