"""Images that start as noise: what a generator is left out for."""

import torch
from torch import Tensor, nn

from lrq_deploy.method.generator import input_bounds
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

__all__ = ["NoiseImages"]


class NoiseImages(nn.Module):
    """Stands where a generator does, and paints standard normal noise.

    ZeroQ (arXiv 2001.00281) starts from it and optimises the pixels until the teacher's
    BatchNorms see their statistics.

    Attributes:
        latent_shape: of the noise of one image, ``(C, H, W)``.
        num_classes, task: of the teacher; the noise depends on neither.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        preprocessing: Preprocessing,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        self.latent_shape = input_shape
        self.num_classes = num_classes
        self.task: Task = task
        low, high = input_bounds(input_shape[0], preprocessing)
        self.register_buffer("low", low[:, None, None])
        self.register_buffer("high", high[:, None, None])

    low: Tensor
    high: Tensor

    def embed(self, wanted: Tensor) -> Tensor:
        """What is wanted, which the noise does not show."""
        return wanted

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest input per channel, each ``[C, 1, 1]``."""
        return self.low, self.high

    def forward(self, latent: Tensor, class_vector: Tensor) -> Tensor:
        """The noise ``[N, C, H, W]`` within the bounds."""
        return torch.minimum(torch.maximum(latent, self.low), self.high)
