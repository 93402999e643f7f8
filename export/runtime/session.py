"""ONNX Runtime on the CPU, with everything stated that changes speed or arithmetic."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lrq_deploy.errors import ExportError
from lrq_deploy.export.runtime.run import failures, names, open_runtime, reason

__all__ = ["OptimizationLevel", "Session", "batches_of", "open_session"]

_PROBE = 2**20
"""Bytes that a disk which is not full takes."""

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
        return names(self.runtime)

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
        except failures() as error:
            raise ExportError(
                "the graph must run in ONNX Runtime",
                reason(error),
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
        OSError: there is no room for ``optimized``.
    """
    source = model if isinstance(model, bytes) else str(model)
    written = "" if optimized is None else str(optimized)
    try:
        runtime = open_runtime(source, threads, level == "all", written)
    except failures() as error:
        if optimized is not None:
            # The runtime tells of a full disk as of a damaged graph.
            with optimized.open("ab") as file:
                file.write(bytes(_PROBE))
        raise ExportError(
            "the graph must load in ONNX Runtime",
            reason(error),
            "check that the file is a model.onnx written by lrq-deploy",
        ) from error
    return Session(runtime, threads)


def batches_of(images: Tensor | Iterable[Tensor], size: int = 64) -> Iterator[Tensor]:
    """Split a tensor ``[N, C, H, W]`` into batches; batches given as such pass through."""
    if isinstance(images, Tensor):
        yield from torch.split(images, size)
    else:
        yield from images
