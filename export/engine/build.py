"""One builder over ``tensorrt`` (10.3 and newer, 11) and ``tensorrt_rtx`` (1.7 and newer)."""

import ctypes
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.engine.options import EngineKind, EngineOptions

__all__ = [
    "BuiltEngine",
    "build_engine",
    "cuda_device_count",
    "load_builder",
    "logged_errors",
    "logger_of",
    "start",
]

_MODULES: dict[EngineKind, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt>=10.3"),
    # 1.4 to 1.6 refuse INT8 convolutions.
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx>=1.7"),
}
# The parser goes on after these, with another meaning than the graph has.
_CHANGED_MEANING = ("UINT8", "Defaulting to INT8")
_OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory")
_SMALL_WORKSPACE = (
    *_OUT_OF_MEMORY,
    "workspace limit",
    "sufficient workspace",
    "could not find any implementation",
)
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_TURING = 75

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
        OptionError: there is no GPU where one is needed, or the module is missing or too old.
    """
    module, requirement = _MODULES[kind]
    install = f'python -m pip install "{requirement}"'
    if kind == "tensorrt":
        install += " (its newest needs a driver of CUDA 13; tensorrt-cu12 is for those of CUDA 12)"
    other = f"with TensorRT's own tool: {command}"
    if kind == "tensorrt" and cuda_device_count() == 0:
        raise OptionError(
            "--engine tensorrt builds on the GPU that it is for",
            "no GPU that the CUDA driver of this machine sees",
            f"run it on the device, after {install}; {f'or there, {other}; ' if command else ''}"
            "or pass --engine tensorrt-rtx, which builds without a GPU",
        )
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        or_other = f"; or {other}" if command and kind == "tensorrt" else ""
        raise OptionError(
            f"--engine {kind} needs the Python module {module}",
            str(error),
            f"install it with {install}{or_other}",
        ) from error
    if _release(loaded.__version__) < _release(requirement):
        raise OptionError(
            f"--engine {kind} needs {requirement}",
            f"{module} {loaded.__version__}",
            f"update it with {install}",
        )
    return loaded


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
        OptionError: a compute capability that the module does not know or that has no INT8, or a
            CUDA driver that the module does not know.
        ExportError: the parser refuses or changes the graph, or the build fails.
    """
    log = logger_of(trt)
    with _everything_logged(log):
        builder = start(trt, "Builder")
        config = _config(trt, builder, options)
        network = _parsed(trt, builder, log, graph)
        profile = builder.create_optimization_profile()
        shapes = [(size, *input_shape) for size in options.batch.sizes()]
        profile.set_shape("input", *shapes)
        accepted = config.add_optimization_profile(profile) >= 0
        engine = builder.build_serialized_network(network, config) if accepted else None
        if engine is None:
            raise _failed_build(logged_errors(log), options)
        lines = tuple(text for _, text in log.lines)
    return BuiltEngine(bytes(engine), lines, str(trt.__version__))


def start(trt: Any, part: Literal["Builder", "Runtime"]) -> Any:
    """``trt.Builder`` or ``trt.Runtime``, with which a module first meets the CUDA driver.

    Raises:
        OptionError: the driver is missing, or too old for the module.
    """
    log = logger_of(trt)
    log.lines.clear()
    try:
        return getattr(trt, part)(log)
    except TypeError as error:
        # pybind11 only says that it got nothing.
        said = "; ".join(text for level, text in log.lines if level in (*_ERRORS, "WARNING"))
        package = trt.__name__.replace("_", "-")
        raise OptionError(
            f"{trt.__name__} {trt.__version__} needs a CUDA driver that is new enough for it",
            _shortened(said or str(error)),
            "update the driver, or install the package for drivers of CUDA 12: "
            f"python -m pip install {package}-cu12",
        ) from error


def logger_of(trt: Any) -> Any:
    """The logger of the module; the libraries keep the first one of a process for ever."""
    if trt.__name__ not in _logs:

        class _Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.lines: list[tuple[str, str]] = []
                self.verbose = False

            def log(self, severity: Any, message: str) -> None:
                level = str(severity).rpartition(".")[2]
                if self.verbose or level != "VERBOSE":
                    self.lines.append((level, message))

        _logs[trt.__name__] = _Log()
    return _logs[trt.__name__]


def logged_errors(log: Any) -> list[str]:
    """What the logger of a module holds of errors."""
    return [text for severity, text in log.lines if severity in _ERRORS]


@contextmanager
def _everything_logged(log: Any) -> Iterator[None]:
    """Verbose lines are kept for the length of a build only; they are megabytes."""
    log.verbose = True
    try:
        yield
    finally:
        log.verbose = False
        log.lines.clear()


def _config(trt: Any, builder: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    # Makes the builder list every layer with its types in the log.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not options.fp16_rest:
        # On unless cleared; it rounds what float layers multiply to the 11 bits of FP16.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.compute_capabilities:
        capabilities = _compute_capabilities(trt, options.compute_capabilities)
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
    return config


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
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)] or logged_errors(
            log
        )
        raise ExportError(
            "TensorRT's parser must accept the graph",
            _shortened("; ".join(errors) or "no reason given"),
            "report it with the network's name, or use another --engine",
        )
    return network


def _compute_capabilities(trt: Any, sms: tuple[int, ...]) -> list[Any]:
    known = {
        int(name[2:]): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM") and name != f"SM{_TURING}"
    }
    choose = f"choose from {','.join(str(sm) for sm in sorted(known))}"
    if _TURING in sms:
        raise OptionError(
            "--sm must name compute capabilities for which TensorRT for RTX has INT8",
            f"{_TURING} (Turing), for which it has none",
            f"{choose}; for Turing, pass --engine tensorrt on a machine with that GPU",
        )
    unknown = [sm for sm in sms if sm not in known]
    if unknown:
        raise OptionError(
            f"--sm must name compute capabilities that {trt.__name__} {trt.__version__} knows",
            ",".join(str(sm) for sm in unknown),
            choose,
        )
    return [known[sm] for sm in sms]


def _failed_build(errors: list[str], options: EngineOptions) -> ExportError:
    text = "; ".join(errors)
    rule = "TensorRT must build the engine"
    remedy = "build for other compute capabilities with --sm, or report it with the network's name"
    if options.kind == "tensorrt":
        remedy = "report it with the network's name and the GPU"
    if any(mark in text.lower() for mark in _OUT_OF_MEMORY):
        remedy = f"pass a smaller largest batch than {options.batch.largest}"
        if options.workspace_mib is None and cuda_device_count() > 0:
            rule = "the build must fit the memory of the GPU"
            remedy += " or a --workspace"
    if options.workspace_mib is not None and any(mark in text.lower() for mark in _SMALL_WORKSPACE):
        remedy = f"pass a larger --workspace than {options.workspace_mib}, or none; or {remedy}"
    received = _shortened(text, 600) or "a failure without a reason"
    return ExportError(rule, received, remedy)


def _release(text: str) -> tuple[int, ...]:
    """Major and minor of a version or of a requirement."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _shortened(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
