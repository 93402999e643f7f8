"""One builder over ``tensorrt`` (10.3 and newer, 11) and ``tensorrt_rtx`` (1.x)."""

import ctypes
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.engine_options import EngineKind, EngineOptions

__all__ = ["BuiltEngine", "build_engine", "cuda_device_count", "load_builder", "logger_of"]

_MODULES: dict[EngineKind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt>=10.3"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx>=1.0"),
}
# The parser goes on after these, with another meaning than the graph has.
_CHANGED_MEANING = ("UINT8", "Defaulting to INT8")
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory")
_ERRORS = ("ERROR", "INTERNAL_ERROR")

_logs: dict[str, Any] = {}


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and how it came about.

    Attributes:
        data: the engine.
        log: what the builder said, verbose.
        version: of the module.
    """

    data: bytes
    log: tuple[str, ...]
    version: str


def cuda_device_count() -> int:
    """Number of GPUs that the CUDA driver sees; 0 without a driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def load_builder(kind: EngineKind, command: str | None) -> Any:
    """Import the module that builds, or say what is missing.

    Args:
        kind: of the engine.
        command: equivalent command line of NVIDIA's tool, for the message; None if there is none.

    Raises:
        OptionError: there is no GPU where one is needed, or the module is not installed.
    """
    module, requirement = _MODULES[kind]
    install = f'python -m pip install "{requirement}"'
    other = f"with TensorRT's own tool: {command}"
    if kind == "tensorrt" and cuda_device_count() == 0:
        raise OptionError(
            "--engine tensorrt builds on the GPU that it is for",
            "no GPU that the CUDA driver of this machine sees",
            f"run it on the device, after {install}; {f'or there, {other}; ' if command else ''}"
            "or pass --engine tensorrt-rtx, which builds without a GPU",
        )
    try:
        return importlib.import_module(module)
    except ImportError as error:
        or_other = f"; or {other}" if command and kind == "tensorrt" else ""
        raise OptionError(
            f"--engine {kind} needs the Python module {module}",
            str(error),
            f"install it with {install}{or_other}",
        ) from error


def build_engine(
    trt: Any, graph: bytes, input_shape: Sequence[int], options: EngineOptions
) -> BuiltEngine:
    """Build an engine from ``model.tensorrt.onnx``.

    Args:
        trt: the module from ``load_builder``.
        graph: serialised ONNX with one input ``input`` of dynamic batch.
        input_shape: ``(C, H, W)``.
        options: what to build for.

    Raises:
        OptionError: a compute capability that the module does not know.
        ExportError: the parser refuses or changes the graph, or the build fails.
    """
    log = logger_of(trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = _parsed(trt, builder, log, graph)
    config = builder.create_builder_config()
    # Makes the builder list every layer with its types in the log.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _set_compute_capabilities(trt, config, options.compute_capabilities)
    profile = builder.create_optimization_profile()
    shapes = [(size, *input_shape) for size in options.batch.sizes()]
    profile.set_shape("input", *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _failed_build(_errors(log), options)
    return BuiltEngine(bytes(engine), tuple(text for _, text in log.lines), str(trt.__version__))


def logger_of(trt: Any) -> Any:
    """The logger of the module; the libraries keep the first one of a process for ever."""
    if trt.__name__ not in _logs:

        class _Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.lines: list[tuple[str, str]] = []

            def log(self, severity: Any, message: str) -> None:
                self.lines.append((str(severity).rpartition(".")[2], message))

        _logs[trt.__name__] = _Log()
    return _logs[trt.__name__]


def _parsed(trt: Any, builder: Any, log: Any, graph: bytes) -> Any:
    # Needed by TensorRT 10; 11 and RTX are always strongly typed and take it as well.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    accepted = parser.parse(graph)
    changed = [
        text
        for severity, text in log.lines
        if severity == "WARNING" and any(mark in text for mark in _CHANGED_MEANING)
    ]
    if changed:
        raise ExportError(
            "TensorRT must read the graph with the meaning that it has",
            f"the parser's warning: {_shortened(changed[0])}",
            "build from model.tensorrt.onnx of a bundle of lrq-deploy",
        )
    if not accepted:
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)] or _errors(log)
        raise ExportError(
            "TensorRT's parser must accept the graph",
            _shortened("; ".join(errors) or "no reason given"),
            "report it with the network's name, or use another --engine",
        )
    return network


def _set_compute_capabilities(trt: Any, config: Any, sms: tuple[int, ...]) -> None:
    if not sms:
        return
    known = {
        int(name[2:]): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [sm for sm in sms if sm not in known]
    if unknown:
        raise OptionError(
            f"--sm must name compute capabilities that {trt.__name__} {trt.__version__} knows",
            ",".join(str(sm) for sm in unknown),
            f"choose from {','.join(str(sm) for sm in sorted(known))}",
        )
    config.num_compute_capabilities = len(sms)
    for index, sm in enumerate(sms):
        config.set_compute_capability(known[sm], index)


def _errors(log: Any) -> list[str]:
    return [text for severity, text in log.lines if severity in _ERRORS]


def _failed_build(errors: list[str], options: EngineOptions) -> ExportError:
    text = "; ".join(errors)
    if any(mark in text.lower() for mark in _OUT_OF_MEMORY):
        remedy = (
            f"pass a smaller largest batch than {options.batch.largest} or a smaller --workspace"
        )
        return ExportError(
            "the build must fit the memory of the GPU", _shortened(text, 600), remedy
        )
    remedy = "build for other compute capabilities with --sm, or report it with the network's name"
    if options.kind == "tensorrt":
        remedy = "report it with the network's name and the GPU"
    if options.workspace_mib is not None and "workspace limit" in text:
        remedy = f"pass a larger --workspace than {options.workspace_mib}, or none"
    received = _shortened(text, 600) or "a failure without a reason"
    return ExportError("TensorRT must build the engine", received, remedy)


def _shortened(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
