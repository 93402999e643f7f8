"""The teacher: a captured full-precision network and what is known of its input."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from lrq_deploy.task import Task

__all__ = ["Interpolation", "Preprocessing", "Teacher"]

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: ``input = (pixel / 255 - mean) / std`` per channel.

    Attributes:
        mean: per channel, in units of the 0..1 pixel range.
        std: per channel, > 0.
        known: false where neither the user nor the architecture's name gave the values; then
            the generator must find the range of the inputs itself.
        resize: shorter side in pixels before the centre crop; ``None`` resizes to the
            input shape directly.
        interpolation: of resized images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    known: bool = True
    resize: int | None = None
    interpolation: Interpolation = "bilinear"

    def bounds(self) -> list[tuple[float, float]]:
        """Smallest and largest input value of each channel."""
        return [((0 - m) / s, (1 - m) / s) for m, s in zip(self.mean, self.std, strict=True)]


@dataclass(frozen=True)
class Teacher:
    """A captured classifier, ready for every later stage.

    Attributes:
        graph: functional ATen graph in evaluation mode, ``[N, C, H, W] -> [N, classes]``,
            with BatchNorm still in place; parameters and buffers do not require gradients.
        input_shape: ``(C, H, W)``.
        num_classes: length of a row of logits.
        preprocessing: normalisation of the input.
        name: what the user called it, for reports.
        fingerprint: SHA-256 over names, shapes and values of the parameters and buffers.
        task: what the logits mean.
        remarks: on the weights, which the user should know.
        class_names: ``num_classes`` of them, or none where nobody stated them.
    """

    graph: fx.GraphModule
    input_shape: tuple[int, int, int]
    num_classes: int
    preprocessing: Preprocessing
    name: str
    fingerprint: str
    task: Task = "multiclass"
    remarks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, classes]`` of normalised images ``[N, C, H, W]``, without gradients."""
        with torch.no_grad():
            result: torch.Tensor = self.graph(images)
        return result
