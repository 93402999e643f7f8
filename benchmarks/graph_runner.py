"""Logits of an ONNX graph, and what the CPU under the process says of itself.

``benchmarks/without_vnni.py`` starts it, natively and under an emulator. It imports nothing but
numpy and onnxruntime, because every instruction of an import is emulated too.

    python benchmarks/graph_runner.py --images x.npy --batch 50 --out found.npz GRAPH.onnx

Prints the features of the CPU as JSON. ``/proc/cpuinfo`` would be that of the host, so the
instruction CPUID is executed: it is what onnxruntime chooses its kernels by.
"""

import argparse
import ctypes
import json
import mmap
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CPUID = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
"""``push rbx; eax, ecx, r8 = arguments; cpuid; store eax, ebx, ecx, edx; pop rbx; ret``."""

FEATURES = {
    "fma": (1, 0, 2, 12),
    "avx2": (7, 0, 1, 5),
    "avx512f": (7, 0, 1, 16),
    "avx512_vnni": (7, 0, 2, 11),
    "avx_vnni": (7, 1, 0, 4),
    "avx_vnni_int8": (7, 1, 3, 4),
    "amx_int8": (7, 0, 3, 25),
}
"""Leaf, sub-leaf, register (EAX, EBX, ECX, EDX) and bit: Intel SDM volume 2, CPUID."""

BRAND_LEAVES = (0x80000002, 0x80000003, 0x80000004)

Registers = Callable[[int, int], list[int]]
"""EAX, EBX, ECX and EDX of a leaf and sub-leaf."""


def main() -> None:
    """Run a graph on the images; print the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    np.savez(options.out, logits=logits(options.graph, np.load(options.images), options.batch))
    print(json.dumps(describe(cpuid())))


def logits(path: str, images: NDArray[Any], batch: int) -> NDArray[Any]:
    """The first output, as a user gets it: all optimisations, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(images), batch)
    return np.concatenate([session.run(None, {name: images[i : i + batch]})[0] for i in starts])


def cpuid() -> Registers:
    """A function of leaf and sub-leaf that executes CPUID.

    Raises:
        OSError: this is no x86-64, or memory must not be executed here.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise OSError(f"CPUID needs an x86-64 CPU, got {platform.machine()}")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(CPUID)
    code = ctypes.c_char.from_buffer(page)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    execute = kind(ctypes.addressof(code))

    # The default argument keeps the page mapped for as long as the function lives.
    def registers(leaf: int, subleaf: int, _page: object = code) -> list[int]:
        out = (ctypes.c_uint32 * 4)()
        execute(leaf, subleaf, ctypes.addressof(out))
        return list(out)

    return registers


def describe(registers: Registers) -> dict[str, Any]:
    """``name`` of the CPU and ``features`` of ``FEATURES`` that it has."""
    highest = registers(0, 0)[0]
    has_subleaf = highest >= 7 and registers(7, 0)[0] >= 1
    names = []
    for name, (leaf, subleaf, register, bit) in FEATURES.items():
        known = leaf <= highest and (subleaf == 0 or has_subleaf)
        if known and registers(leaf, subleaf)[register] >> bit & 1:
            names.append(name)
    brand = b""
    if registers(0x80000000, 0)[0] >= BRAND_LEAVES[-1]:
        words = [word for leaf in BRAND_LEAVES for word in registers(leaf, 0)]
        brand = b"".join(word.to_bytes(4, "little") for word in words)
    return {"name": brand.split(b"\0")[0].decode("ascii", "replace").strip(), "features": names}


if __name__ == "__main__":
    main()
