"""Freed memory stays while a stage trains, and goes back to the system behind it."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from lrq_deploy.method.heap import kept_heap

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(
        sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
        reason="glibc alone has these thresholds",
    ),
]

MAPS, BYTES = 8, 16 * 2**20
PAGES = MAPS * BYTES // resource.getpagesize()


def take_and_free() -> None:
    """What a step does: several maps at once, then none."""
    maps = [torch.ones(BYTES, dtype=torch.uint8) for _ in range(MAPS)]
    del maps


def faults_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take_and_free()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def test_later_steps_map_no_pages_anew() -> None:
    with kept_heap():
        for _ in range(3):
            take_and_free()
        assert faults_of_a_step() < PAGES / 4


def test_what_was_kept_is_given_back() -> None:
    with kept_heap():
        take_and_free()
        kept = resident_bytes()
    assert kept - resident_bytes() > MAPS * BYTES / 4


def test_an_error_gives_it_back_too() -> None:
    kept: list[int] = []

    def fail() -> None:
        take_and_free()
        kept.append(resident_bytes())
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"), kept_heap():
        fail()
    assert kept[0] - resident_bytes() > MAPS * BYTES / 4
