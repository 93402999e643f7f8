"""What an engine's record says of the GPU that built it."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.engine.file import EngineRecord
from lrq_deploy.export.engine.gpu_facts import GpuFacts, built_on_gpu, gpu_facts

pytestmark = pytest.mark.unit

RECORD = EngineRecord(
    engine=FileRecord("0", 1),
    graph_sha256="0",
    network="net",
    scheme="W8A8",
    kind="tensorrt",
    versions={"tensorrt": "11.4"},
    compute_capabilities=(),
    batch=(1, 1, 8),
    input_shape=(3, 8, 8),
    workspace_mib=None,
    fp16_rest=False,
    audit=None,
)


def put(pointer: Any, value: int) -> int:
    pointer._obj.value = value
    return 0


def write(text: Any, value: bytes) -> int:
    text.value = value
    return 0


NVML = SimpleNamespace(
    nvmlInit_v2=lambda: 0,
    nvmlSystemGetDriverVersion=lambda text, size: write(text, b"595.71.05"),
    nvmlShutdown=lambda: 0,
)


def driver(**refused: int) -> Any:
    """``libcuda`` of a machine with one GPU; a call named in ``refused`` returns that code."""
    attributes = {75: 8, 76: 6}
    return SimpleNamespace(
        cuInit=lambda flags: refused.get("cuInit", 0),
        cuDeviceGet=lambda device, ordinal: refused.get("cuDeviceGet", 0),
        cuDeviceGetName=lambda text, size, device: write(text, b"NVIDIA A10"),
        cuDriverGetVersion=lambda version: (
            put(version, 13020) or refused.get("cuDriverGetVersion", 0)
        ),
        cuDeviceGetAttribute=lambda found, attribute, device: put(found, attributes[attribute]),
    )


def libraries(patch: pytest.MonkeyPatch, **found: Any) -> None:
    def load(name: str) -> Any:
        for part, library in found.items():
            if part in name:
                return library
        raise OSError(name)

    patch.setattr(ctypes, "CDLL", load)


@pytest.mark.parametrize("nvml", [NVML, None])
def test_the_gpu_and_its_driver_are_named(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> None:
    libraries(monkeypatch, cuda=driver(), **({} if nvml is None else {"nvidia": nvml}))
    versions = {"cuda": "13.2"} if nvml is None else {"cuda": "13.2", "driver": "595.71.05"}
    assert gpu_facts() == GpuFacts("NVIDIA A10", 86, versions)
    record = built_on_gpu(RECORD)
    assert (record.gpu, record.compute_capabilities) == ("NVIDIA A10", (86,))
    assert record.versions == {"tensorrt": "11.4", **versions}


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDriverGetVersion"])
def test_a_driver_that_refuses_says_nothing(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    libraries(monkeypatch, cuda=driver(**{call: 100}))
    assert gpu_facts() is None


def test_without_a_driver_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries(monkeypatch)
    assert built_on_gpu(RECORD) == RECORD


def test_an_engine_built_ahead_of_time_is_for_no_gpu_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries(monkeypatch, cuda=driver())
    ahead = replace(RECORD, kind="tensorrt-rtx", compute_capabilities=(86, 89))
    assert built_on_gpu(ahead) == ahead
