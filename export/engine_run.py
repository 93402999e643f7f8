"""Runs an engine on the GPU of this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from lrq_deploy.errors import BundleError, ExportError, OptionError
from lrq_deploy.export.bundle import Bundle
from lrq_deploy.export.engine import default_engine_path
from lrq_deploy.export.engine_build import load_builder, logger_of
from lrq_deploy.export.engine_file import EngineRecord, read_engine
from lrq_deploy.export.engine_options import EngineKind
from lrq_deploy.export.tensorrt_dialect import TensorRTTarget

__all__ = [
    "EngineSession",
    "EngineUnavailableError",
    "built_engines",
    "compute_capability",
    "load_engine",
    "open_engine",
]


class EngineUnavailableError(ExportError):
    """No engine of a bundle can run on this machine."""


@dataclass(frozen=True)
class EngineSession:
    """A loaded engine.

    Attributes:
        context: execution context of the runtime.
        record: what the engine is.
    """

    context: Any
    record: EngineRecord

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` on the CPU of normalised images ``[N, C, H, W]``.

        Batches above the largest of the engine are split, those below its smallest are padded.

        Raises:
            ExportError: the engine fails.
        """
        smallest, _, largest = self.record.batch
        parts = []
        for part in images.to(torch.float32).split(largest):
            padded = torch.zeros(max(len(part), smallest), *part.shape[1:])
            padded[: len(part)] = part
            parts.append(self._run(padded.cuda())[: len(part)].cpu())
        return torch.cat(parts)

    def bind(self, images: Tensor) -> Tensor:
        """Point the engine at a batch on the GPU; what it returns holds the logits after a run."""
        context = self.context
        context.set_input_shape("input", tuple(images.shape))
        logits = torch.empty(tuple(context.get_tensor_shape("logits")), device=images.device)
        context.set_tensor_address("input", images.data_ptr())
        context.set_tensor_address("logits", logits.data_ptr())
        return logits

    def enqueue(self, stream: torch.cuda.Stream) -> None:
        """Start a run of what is bound.

        Raises:
            ExportError: the engine fails.
        """
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise ExportError(
                "an engine must run the batches it is for",
                f"a failure with the input {tuple(self.context.get_tensor_shape('input'))}",
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


def open_engine(bundle: Bundle) -> EngineSession:
    """Load the engine beside a bundle, where ``build`` puts it.

    Raises:
        EngineUnavailableError: there is none, no GPU or runtime for it, or it does not match.
    """
    found = built_engines(bundle)
    if not found:
        raise _unavailable(f"none beside {bundle.path}")
    graph = bundle.manifest.files.get(TensorRTTarget().file_name)
    if graph is None:
        raise _unavailable(f"{found[0][1]}, which is of no graph in {bundle.path}")
    if not torch.cuda.is_available():
        raise _unavailable("no GPU that CUDA sees")
    kind, path = found[0]
    try:
        trt = load_builder(kind, "trtexec")
        version, capability = str(trt.__version__), compute_capability()
        data, record = read_engine(path, kind, version, capability, graph.sha256)
    except (BundleError, OptionError) as error:
        raise _unavailable(f"{error.received} ({error.rule})") from error
    return load_engine(trt, data, record)


def load_engine(trt: Any, data: bytes, record: EngineRecord) -> EngineSession:
    """Load a serialised engine.

    Args:
        trt: the module that built it.
        data: the engine.
        record: what it is.

    Raises:
        EngineUnavailableError: the module does not load it.
    """
    engine = trt.Runtime(logger_of(trt)).deserialize_cuda_engine(data)
    if engine is None:
        raise _unavailable(f"one that {record.kind} {trt.__version__} does not load")
    return EngineSession(engine.create_execution_context(), record)


def compute_capability() -> int:
    """That of the current GPU, times ten."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _unavailable(received: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        "an engine needs its file, its GPU and its runtime",
        received,
        "make one with lrq-deploy build, on the machine that has the GPU",
    )
