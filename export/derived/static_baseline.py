"""What ONNX Runtime's own post-training quantizer makes of a float graph, to compare with."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrq_deploy.errors import ExportError, ImageError
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.task import Task

__all__ = ["CALIBRATION_IMAGES", "agreements", "static_baseline"]

CALIBRATION_IMAGES = 32
"""Ranges of 8 bits by minimum and maximum hardly move with more."""


def static_baseline(float_model: Path, images: Iterator[Tensor], out: Path) -> None:
    """Write ``onnxruntime.quantization.quantize_static`` of a float graph.

    Its fastest form on x86: uint8 activations, int8 weights per output channel, Q/DQ. Unlike a
    graph of this project, it may saturate on a CPU without VNNI.

    Args:
        float_model: file with one input, an image of any name.
        images: batches ``[n, C, H, W]`` of normalised real images; the first
            ``CALIBRATION_IMAGES`` are used.
        out: file to write.

    Raises:
        ImageError: there are no images.
        ExportError: the quantizer does not take the graph.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _Reader(images)
    if reader.first is None:
        raise ImageError("static quantization needs images", "none", "pass a folder with images")
    reader.input_name = open_session(float_model).names()[0]
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(float_model), str(prepared))
            quantize_static(
                str(prepared),
                str(out),
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except (ValueError, RuntimeError, KeyError, AssertionError) as error:
            # It asserts that scales are numbers, which NaN among the values of a graph breaks.
            reason = next(iter(str(error).strip().splitlines()), "no reason given")
            raise ExportError(
                "onnxruntime.quantization must take the float graph",
                f"{type(error).__name__}: {reason}",
                "leave --against-static out",
            ) from error


def agreements(
    float_model: Path, graphs: Sequence[Path], images: Iterator[Tensor], task: Task
) -> list[float]:
    """Share of the answers of a float graph that each of the others repeats, 0..1.

    Args:
        float_model: file of the float graph.
        graphs: files of the others.
        images: batches ``[n, C, H, W]`` of normalised images, at least one image.
        task: what an answer is.

    Raises:
        ExportError: ONNX Runtime does not accept a graph.
    """
    sessions = [open_session(path) for path in (float_model, *graphs)]
    batches = [[session.logits(batch) for session in sessions] for batch in images]
    expected, *others = (torch.cat(part) for part in zip(*batches, strict=True))
    return [compare(expected, other, task).same_top1 for other in others]


class _Reader:
    """Feeds one image at a time, as the quantizer wants it."""

    def __init__(self, images: Iterator[Tensor]) -> None:
        self.input_name = "input"
        single = itertools.islice((x[None] for batch in images for x in batch), CALIBRATION_IMAGES)
        self.first = next(single, None)
        self._left = single
        self._next = self.first

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next input, or None at the end."""
        image, self._next = self._next, next(self._left, None)
        return None if image is None else {self.input_name: image.numpy().astype(np.float32)}
