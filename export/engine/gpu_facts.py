"""The GPU and the driver that an engine is built on, as its record states them."""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lrq_deploy.export.engine.file import EngineRecord

__all__ = ["GpuFacts", "built_on_gpu", "gpu_facts"]

_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76
"""Attributes of ``cuDeviceGetAttribute``: compute capability."""


@dataclass(frozen=True)
class GpuFacts:
    """The first GPU of this machine, which is the one that TensorRT builds for.

    Attributes:
        name: as CUDA states it.
        compute_capability: times ten.
        versions: ``cuda``, the newest that the driver runs, and ``driver`` where NVML tells it.
    """

    name: str
    compute_capability: int
    versions: Mapping[str, str]


def built_on_gpu(record: EngineRecord) -> EngineRecord:
    """A record with the GPU of this machine, where its engine is for no other.

    One that names its compute capabilities was built ahead of time and stays as it is.
    """
    facts = None if record.compute_capabilities else gpu_facts()
    if facts is None:
        return record
    return replace(
        record,
        gpu=facts.name,
        compute_capabilities=(facts.compute_capability,),
        versions={**record.versions, **facts.versions},
    )


def gpu_facts() -> GpuFacts | None:
    """What the CUDA driver says of its first GPU; None where it sees none.

    The driver is asked itself, because the machine that builds may have a torch without CUDA.
    """
    cuda = _library("nvcuda.dll", "libcuda.so.1")
    device, version = ctypes.c_int(0), ctypes.c_int(0)
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    parts = [ctypes.c_int(0), ctypes.c_int(0)]
    refused = [
        cuda.cuDeviceGetName(name, _NAME_BYTES, device),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
        *(
            cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
            for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True)
        ),
    ]
    if any(refused):
        return None
    # 13020 is CUDA 13.2.
    versions = {"cuda": f"{version.value // 1000}.{version.value % 1000 // 10}"}
    driver = _driver_version()
    if driver:
        versions["driver"] = driver
    major, minor = (part.value for part in parts)
    return GpuFacts(name.value.decode(errors="replace"), 10 * major + minor, versions)


def _driver_version() -> str:
    """For instance ``580.65.06``; empty where NVML is missing, as on a Jetson, or refuses."""
    nvml = _library("nvml.dll", "libnvidia-ml.so.1")
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return ""
    text = ctypes.create_string_buffer(_NAME_BYTES)
    refused = nvml.nvmlSystemGetDriverVersion(text, _NAME_BYTES)
    nvml.nvmlShutdown()
    return "" if refused else text.value.decode(errors="replace")


def _library(on_windows: str, elsewhere: str) -> Any:
    try:
        return ctypes.CDLL(on_windows if sys.platform == "win32" else elsewhere)
    except OSError:
        return None
