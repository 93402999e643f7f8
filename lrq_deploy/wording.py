"""Words of messages that depend on a number, or come from a file."""

from collections.abc import Iterable

__all__ = ["counted", "printable", "shape_text", "size_text"]

_KIB = 1024
_LONG = 2**1000


def counted(number: int, noun: str) -> str:
    """``1 tensor``, ``2,000 tensors``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(value: object, length: int = 60) -> str:
    """Text of a foreign value for a terminal: no control characters, at most ``length``."""
    # Python refuses to write a number of more than 4,300 digits.
    whole = hex(value) if isinstance(value, int) and abs(value) >= _LONG else str(value)
    text = "".join(char if char.isprintable() else "?" for char in whole[: length + 1])
    return text if len(text) <= length else text[: length - 3] + "..."


def shape_text(shape: Iterable[int]) -> str:
    """``[?,3,224,224]``; a size below 0 is an open one."""
    return "[" + ",".join(str(n) if n >= 0 else "?" for n in shape) + "]"


def size_text(count: int) -> str:
    """Bytes in the unit that suits."""
    if count < _KIB * _KIB:
        return f"{count / _KIB:.1f} KiB"
    return f"{count / _KIB / _KIB:.2f} MiB"
