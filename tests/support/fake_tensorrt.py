"""A module of TensorRT and a GPU that are none: they take calls, time and memory, and no values.

A launch on an idle GPU waits for the CPU first; launches behind one another do not. The library
takes memory once, in the first run; each loaded engine takes its own for as long as it lives.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrq_deploy.export.engine import latency as engine_latency
from lrq_deploy.export.engine import run as engine_run

VERSION = "1.7.1"
LIBRARY_BYTES = 500
GAP_MS = 0.01


@dataclass
class FakeGpu:
    """What stands in for ``torch.cuda`` and for both modules.

    Attributes:
        run_ms: of an engine, by its bytes.
        held_bytes: of an engine while it is loaded, by its bytes.
        refused: names of calls that fail.
        configs: runtime configurations that a context was made with.
        captures: how streams were captured.
    """

    name: str = "GPU 9"
    run_ms: dict[bytes, float] = field(default_factory=dict)
    held_bytes: dict[bytes, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    configs: list[Any] = field(default_factory=list)
    captures: list[dict[str, Any]] = field(default_factory=list)
    now_ms: float = 0.0
    idle: bool = True
    used_bytes: int = 0
    library_loaded: bool = False
    capturing: list[float] | None = None

    def launch(self, taken_ms: float) -> None:
        if self.capturing is not None:
            self.capturing.append(taken_ms)
            return
        if not self.library_loaded:
            self.library_loaded, self.used_bytes = True, self.used_bytes + LIBRARY_BYTES
        self.now_ms += taken_ms + (GAP_MS if self.idle else 0)
        self.idle = False

    def hold(self, owner: object, data: bytes) -> None:
        held = self.held_bytes.get(data, 0)
        self.used_bytes += held
        weakref.finalize(owner, self._release, held)

    def _release(self, held: int) -> None:
        self.used_bytes -= held

    def wait(self) -> None:
        self.idle = True

    @contextmanager
    def capture(self, graph: "_Graph", stream: object, **options: Any) -> Iterator[None]:
        self.captures.append(options)
        if "capture" in self.refused:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.capturing = graph.launches
        try:
            yield
        finally:
            self.capturing = None


class _Graph:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.launches: list[float] = []

    def replay(self) -> None:
        for taken_ms in self.launches:
            self.gpu.launch(taken_ms)


class _Event:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.at_ms = gpu, 0.0

    def record(self, stream: object) -> None:
        self.at_ms = self.gpu.now_ms

    def elapsed_time(self, end: "_Event") -> float:
        return end.at_ms - self.at_ms


class _Context:
    """Batches are ``[N, C, H, W]``, logits ``[N, 2]``."""

    def __init__(self, gpu: FakeGpu, log: Any, data: bytes) -> None:
        self.gpu, self.log, self.data = gpu, log, data
        self.shape: tuple[int, ...] = ()
        gpu.hold(self, data)

    def _done(self, call: str) -> bool:
        if call in self.gpu.refused:
            self.log.log("Severity.ERROR", f"{call} says why")
            return False
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return self._done("set_input_shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape if name == "input" else (self.shape[0], 2)

    def set_tensor_address(self, name: str, address: int) -> bool:
        return self._done("set_tensor_address")

    def execute_async_v3(self, handle: int) -> bool:
        if "memory" in self.gpu.refused:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.gpu.launch(self.gpu.run_ms.get(self.data, 1.0))
        return self._done("execute_async_v3")


def fake_tensorrt(gpu: FakeGpu) -> Any:
    """What this project uses of ``tensorrt`` and ``tensorrt_rtx`` to run an engine."""

    class Engine:
        def __init__(self, log: Any, data: bytes) -> None:
            self.log, self.data = log, data

        def create_runtime_config(self) -> Any:
            return SimpleNamespace()

        def create_execution_context(self, config: Any = None) -> _Context | None:
            gpu.configs.append(config)
            if "create_execution_context" in gpu.refused:
                self.log.log("Severity.ERROR", "create_execution_context says why")
                return None
            return _Context(gpu, self.log, self.data)

    class Runtime:
        def __init__(self, log: Any) -> None:
            if "Runtime" in gpu.refused:
                log.log("Severity.ERROR", "CUDA driver version is insufficient")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if "deserialize_cuda_engine" in gpu.refused:
                self.log.log("Severity.ERROR", "deserialize_cuda_engine says why")
                return None
            return Engine(self.log, data)

    return SimpleNamespace(
        __name__="fake_tensorrt",
        __version__=VERSION,
        ILogger=object,
        Runtime=Runtime,
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
    )


def install(patch: pytest.MonkeyPatch, gpu: FakeGpu) -> Any:
    """Let the code under test find the GPU and the module, which is returned."""
    trt = fake_tensorrt(gpu)
    for module in (engine_run, engine_latency):
        patch.setattr(module, "load_builder", lambda kind, command: trt)
    stream = SimpleNamespace(cuda_stream=7, synchronize=gpu.wait)
    found = {
        "is_available": lambda: True,
        "get_device_name": lambda: gpu.name,
        "get_device_capability": lambda: (8, 9),
        "synchronize": gpu.wait,
        "empty_cache": lambda: None,
        "mem_get_info": lambda: (10_000 - gpu.used_bytes, 10_000),
        "Stream": lambda: stream,
        "stream": lambda used: nullcontext(),
        "current_stream": lambda: stream,
        "Event": lambda enable_timing: _Event(gpu),
        "CUDAGraph": lambda: _Graph(gpu),
        "graph": gpu.capture,
    }
    for name, value in found.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    return trt
