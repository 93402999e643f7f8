"""Runs an engine on the GPU of this machine."""

from dataclasses import dataclass
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

__all__ = ["EngineSession", "EngineUnavailableError", "open_engine"]


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

    def _run(self, images: Tensor) -> Tensor:
        context, stream = self.context, torch.cuda.Stream()
        context.set_input_shape("input", tuple(images.shape))
        logits = torch.empty(tuple(context.get_tensor_shape("logits")), device=images.device)
        context.set_tensor_address("input", images.data_ptr())
        context.set_tensor_address("logits", logits.data_ptr())
        # The copy of the images runs on another stream.
        torch.cuda.synchronize()
        if not context.execute_async_v3(stream.cuda_stream):
            raise ExportError(
                "an engine must run the batches it is for",
                f"a failure with {len(images)} images",
                "build it again with lrq-deploy build, or report it with the GPU",
            )
        stream.synchronize()
        return logits


def open_engine(bundle: Bundle) -> EngineSession:
    """Load the engine beside a bundle, where ``build`` puts it.

    Raises:
        EngineUnavailableError: there is none, no GPU or runtime for it, or it does not match.
    """
    kinds: tuple[EngineKind, ...] = get_args(EngineKind)
    found = [(kind, path) for kind in kinds if (path := default_engine_path(bundle, kind)).exists()]
    if not found:
        raise _unavailable(f"none beside {bundle.path}")
    if not torch.cuda.is_available():
        raise _unavailable("no GPU that CUDA sees")
    kind, path = found[0]
    major, minor = torch.cuda.get_device_capability()
    graph = bundle.manifest.files[TensorRTTarget().file_name].sha256
    try:
        trt = load_builder(kind, "trtexec")
        data, record = read_engine(path, kind, str(trt.__version__), 10 * major + minor, graph)
    except (BundleError, OptionError) as error:
        raise _unavailable(f"{error.received} ({error.rule})") from error
    engine = trt.Runtime(logger_of(trt)).deserialize_cuda_engine(data)
    if engine is None:
        raise _unavailable(f"{path}, which {kind} {trt.__version__} does not load")
    return EngineSession(engine.create_execution_context(), record)


def _unavailable(received: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        "an engine needs its file, its GPU and its runtime",
        received,
        "make one with lrq-deploy build, on the machine that has the GPU",
    )
