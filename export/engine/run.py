"""Runs an engine on the GPU of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from lrq_deploy.errors import BundleError, ExportError, LrqError, OptionError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.dialects.tensorrt import TensorRTTarget
from lrq_deploy.export.engine.build import load_builder, logged_errors, logger_of, start
from lrq_deploy.export.engine.file import EngineRecord, check_runtime, read_engine
from lrq_deploy.export.engine.from_bundle import default_engine_path
from lrq_deploy.export.engine.options import EngineKind

__all__ = [
    "EngineSession",
    "EngineUnavailableError",
    "built_engines",
    "compute_capability",
    "gpu_memory",
    "load_engine",
    "open_engine",
]

_RULE = "an engine needs its file, its GPU and its runtime"
_SAID_LINES = 3
_SAID_LENGTH = 600


class EngineUnavailableError(ExportError):
    """No engine of a bundle can run on this machine."""


@dataclass(frozen=True)
class EngineSession:
    """A loaded engine.

    Attributes:
        trt: the module that runs it.
        data: the serialised engine.
        record: what the engine is.
        context: execution context of the runtime.
        cuda_graph: whether the runtime itself launches runs as CUDA graphs.
    """

    trt: Any
    data: bytes
    record: EngineRecord
    context: Any
    cuda_graph: bool = False

    @property
    def remark(self) -> str:
        """What differs between the GPU that the engine was built on and this one, or empty."""
        built_on, here = self.record.gpu, torch.cuda.get_device_name()
        if built_on in ("", here):
            return ""
        return f"built on {built_on}, whose kernels may not be the fastest of {here}"

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` on the CPU of normalised images ``[N, C, H, W]``.

        Batches above the largest of the engine are split, those below its smallest are padded.

        Raises:
            ExportError: the engine fails, or the GPU has no room for a batch.
        """
        smallest, _, largest = self.record.batch
        parts = []
        for part in images.to(torch.float32).split(largest):
            padded = torch.zeros(max(len(part), smallest), *part.shape[1:])
            padded[: len(part)] = part
            with gpu_memory(len(padded)):
                parts.append(self._run(padded.cuda())[: len(part)].cpu())
        return torch.cat(parts)

    def bind(self, images: Tensor) -> Tensor:
        """Point the engine at a batch on the GPU; what it returns holds the logits after a run.

        Raises:
            ExportError: the engine does not take the batch.
        """
        context, shape = self.context, tuple(images.shape)
        self._require(context.set_input_shape("input", shape), f"the input {shape}")
        logits = torch.empty(tuple(context.get_tensor_shape("logits")), device=images.device)
        for name, tensor in (("input", images), ("logits", logits)):
            taken = context.set_tensor_address(name, tensor.data_ptr())
            self._require(taken, f"the memory of '{name}' for the input {shape}")
        return logits

    def enqueue(self, stream: torch.cuda.Stream) -> None:
        """Start a run of what is bound.

        Raises:
            ExportError: the engine fails.
        """
        done = self.context.execute_async_v3(stream.cuda_stream)
        self._require(done, f"a run of the input {tuple(self.context.get_tensor_shape('input'))}")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise ExportError(
                "an engine must run the batches it is for",
                f"a failure at {what}: {_said(self.trt)}",
                "build it again with lrq-deploy build, or report it with the GPU",
            )

    def _run(self, images: Tensor) -> Tensor:
        logits, stream = self.bind(images), torch.cuda.Stream()
        # The copy of the images runs on another stream.
        torch.cuda.synchronize()
        self.enqueue(stream)
        stream.synchronize()
        return logits


def built_engines(bundle: Bundle) -> tuple[tuple[EngineKind, Path], ...]:
    """Engine files where ``build`` puts them, beside the bundle."""
    kinds: tuple[EngineKind, ...] = get_args(EngineKind)
    paths = {kind: default_engine_path(bundle, kind) for kind in kinds}
    return tuple((kind, path) for kind, path in paths.items() if path.exists())


def open_engine(bundle: Bundle, file: Path | None = None) -> EngineSession:
    """Load an engine of a bundle: the first that runs here.

    Args:
        bundle: what the engine was built from.
        file: engine to load; None takes those beside the bundle, where ``build`` puts them.

    Raises:
        EngineUnavailableError: there is none, no GPU or runtime for it, or it does not match.
        ExportError: the GPU has no room for it.
    """
    found: list[tuple[EngineKind | None, Path]] = (
        [*built_engines(bundle)] if file is None else [(None, file)]
    )
    if not found:
        raise _unavailable(f"none beside {bundle.path}")
    graph = bundle.manifest.files.get(TensorRTTarget().file_name)
    if graph is None:
        remedy = "quantize again with --target tensorrt and build the engine of that bundle"
        raise _unavailable(f"{found[0][1]}, which is of no graph in {bundle.path}", remedy)
    if not torch.cuda.is_available():
        remedy = "run this on the machine that has the GPU, with a torch that is built for CUDA"
        raise _unavailable("no GPU that CUDA sees", remedy)
    refused: list[LrqError] = []
    for kind, path in found:
        try:
            return _opened(path, kind, graph.sha256)
        except (BundleError, OptionError, EngineUnavailableError) as error:
            refused.append(error)
    raise _unavailable(
        "; ".join(f"{error.received} ({error.rule})" for error in refused),
        "; or ".join(dict.fromkeys(error.remedy for error in refused)),
    ) from refused[0]


def _opened(path: Path, kind: EngineKind | None, graph_sha256: str) -> EngineSession:
    data, record = read_engine(path, kind, graph_sha256)
    trt = load_builder(record.kind, None)
    check_runtime(record, str(trt.__version__), compute_capability())
    return load_engine(trt, data, record)


def load_engine(trt: Any, data: bytes, record: EngineRecord, timed: bool = False) -> EngineSession:
    """Load a serialised engine.

    Args:
        trt: the module that built it.
        data: the engine.
        record: what it is.
        timed: let TensorRT for RTX launch it as a CUDA graph, which it captures itself.

    Raises:
        OptionError: the driver is too old for the module.
        EngineUnavailableError: the module does not load it.
        ExportError: the GPU has no room for it.
    """
    runtime = start(trt, "Runtime")
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        here = f"{record.kind} {trt.__version__}"
        raise _unavailable(f"one that {here} does not load: {_said(trt)}")
    context, cuda_graph = _context(trt, engine, record.kind, timed)
    if context is None:
        raise ExportError(
            "the GPU must have room for the scratch memory of an engine",
            _said(trt),
            "end what else uses the GPU, or build with a smaller --batch or --workspace",
        )
    return EngineSession(trt, data, record, context, cuda_graph)


def _context(trt: Any, engine: Any, kind: EngineKind, timed: bool) -> tuple[Any, bool]:
    """An execution context, or None, and whether it launches CUDA graphs."""
    if kind == "tensorrt":
        return engine.create_execution_context(), False
    config = engine.create_runtime_config()
    # Otherwise the kernels of a shape change while it runs: fallbacks first, its own later.
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    if timed:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config), timed


@contextmanager
def gpu_memory(batch: int) -> Iterator[None]:
    """Say in the words of this project that a batch does not fit the GPU.

    Raises:
        ExportError: torch finds no memory in the block.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ExportError(
            "the GPU must have room for a batch of the engine",
            f"{batch} images: {str(error).partition('.')[0]}",
            "end what else uses the GPU, or build with a smaller --batch",
        ) from error


def compute_capability() -> int:
    """That of the current GPU, times ten."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _said(trt: Any) -> str:
    """The last errors that the libraries logged."""
    errors = logged_errors(logger_of(trt))[-_SAID_LINES:]
    return " ".join("; ".join(errors).split())[:_SAID_LENGTH] or "no reason given"


def _unavailable(
    received: str,
    remedy: str = "make one with lrq-deploy build, on the machine that has the GPU",
) -> EngineUnavailableError:
    return EngineUnavailableError(_RULE, received, remedy)
