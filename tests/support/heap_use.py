"""What a process of its own maps and keeps around ``kept_heap``, as one line of JSON.

Of its own, because a heap that other tests have torn grows and shrinks in pieces.
"""

import json
import resource
import sys
from pathlib import Path

import torch

from lrq_deploy.method.steps.heap import kept_heap

MAPS, BYTES = 8, 16 * 2**20


def take_and_free() -> None:
    """What a step does: several maps at once, then none."""
    maps = [torch.ones(BYTES, dtype=torch.uint8) for _ in range(MAPS)]
    del maps


def faults_of_a_step() -> int:
    """Pages that one step had mapped anew, of ``MAPS * BYTES`` bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    take_and_free()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    """Memory of this process that is mapped now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def measure(*, fails: bool) -> dict[str, int]:
    """Pages mapped by steps outside and inside, and bytes resident inside and behind."""
    take_and_free()
    outside, inside, kept = faults_of_a_step(), -1, -1
    try:
        with kept_heap():
            for _ in range(3):
                take_and_free()
            inside, kept = faults_of_a_step(), resident_bytes()
            if fails:
                raise ValueError("stop")
    except ValueError:
        pass
    return {"outside": outside, "inside": inside, "kept": kept, "behind": resident_bytes()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(fails="--fails" in sys.argv[1:])))
