"""Freed memory stays while a stage trains, and goes back to the system behind it."""

import ctypes
import json
import resource
import subprocess
import sys

import pytest
from support import heap_use

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(
        sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
        reason="glibc alone has these thresholds",
    ),
]

STEP_BYTES = heap_use.MAPS * heap_use.BYTES


def in_a_process(*arguments: str) -> dict[str, int]:
    command = [sys.executable, heap_use.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def test_later_steps_map_no_pages_anew_and_all_is_given_back() -> None:
    seen = in_a_process()
    assert seen["inside"] < STEP_BYTES / resource.getpagesize() / 4 < seen["outside"]
    assert seen["kept"] - seen["behind"] > STEP_BYTES / 4


def test_an_error_gives_it_back_too() -> None:
    seen = in_a_process("--fails")
    assert seen["kept"] - seen["behind"] > STEP_BYTES / 4
