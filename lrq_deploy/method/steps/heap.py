"""Memory that a step has freed stays with the process while steps follow each other.

The C library gives the end of its heap back to the system whenever enough of it is free. A step
frees nearly all that it took, and the next one would have each page of it mapped and cleared anew.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_heap"]

# The names and values of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 * 2**20
"""Bytes from which a block is mapped by itself, and leaves at once: glibc's own upper limit."""
_KEPT = 512 * 2**20
"""Bytes that may lie free at the end of the heap between two steps."""


@contextmanager
def kept_heap() -> Iterator[None]:
    """Let up to 512 MiB lie free inside; behind it they are given back.

    Blocks of 32 MiB and more are not kept. Nothing happens where the C library is not glibc.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        # Where glibc's own thresholds end up once a block of 32 MiB has been freed.
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST)
        library.malloc_trim(0)
