"""ONNX Runtime on the CPU, with everything stated that changes speed or arithmetic."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lrq_deploy.errors import ExportError

__all__ = ["OptimizationLevel", "Session", "batches_of", "open_session"]

OptimizationLevel = Literal["off", "all"]


@dataclass(frozen=True)
class Session:
    """A loaded graph.

    Attributes:
        runtime: the ``onnxruntime.InferenceSession``.
        threads: of one run.
    """

    runtime: Any
    threads: int

    def names(self) -> tuple[str, str]:
        """Of the image and of the logits, which other exporters may call as they like."""
        outputs = [value.name for value in self.runtime.get_outputs()]
        return self.runtime.get_inputs()[0].name, "logits" if "logits" in outputs else outputs[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of normalised images ``[N, C, H, W]`` float32.

        Raises:
            ExportError: the runtime refuses the images.
        """
        array = np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)
        expected = self.runtime.get_inputs()[0].shape[1:]
        if list(array.shape[1:]) != list(expected):
            raise ExportError(
                "images must have the shape of the network's input",
                ",".join(str(n) for n in array.shape[1:]),
                f"resize them to {','.join(str(n) for n in expected)}",
            )
        image, logits = self.names()
        try:
            return torch.from_numpy(self.runtime.run([logits], {image: array})[0])
        except _failures() as error:
            raise ExportError(
                "the graph must run in ONNX Runtime",
                _reason(error),
                "replace the operator that it names in the network",
            ) from error


def open_session(
    model: Path | bytes,
    threads: int = 1,
    level: OptimizationLevel = "all",
    optimized: Path | None = None,
) -> Session:
    """Load a graph in ONNX Runtime's CPU provider.

    Args:
        model: file or serialised graph.
        threads: of one run, 1 or more.
        level: ``all`` fuses integer kernels; ``off`` runs every node as written.
        optimized: where to write the graph that really runs.

    Raises:
        ExportError: the runtime does not accept the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the cores from whatever else runs on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_DISABLE_ALL
    )
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    try:
        runtime = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _failures() as error:
        raise ExportError(
            "the graph must load in ONNX Runtime",
            _reason(error),
            "check that the file is a model.onnx written by lrq-deploy",
        ) from error
    return Session(runtime, threads)


def _reason(error: Exception) -> str:
    """The first line of a runtime's message, and what it lists where the line ends in a colon."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    listed = [line.strip() for line in rest] if first.endswith(":") else []
    return " ".join([first, *listed])


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises where it refuses a graph."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def batches_of(images: Tensor | Iterable[Tensor], size: int = 64) -> Iterator[Tensor]:
    """Split a tensor ``[N, C, H, W]`` into batches; batches given as such pass through."""
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
    else:
        yield from images
