"""Images that start as noise: what a generator is left out for."""

import torch
from torch import Tensor

from lrq_deploy.method.images.blind_source import BlindSource

__all__ = ["NoiseImages"]


class NoiseImages(BlindSource):
    """Paints standard normal noise.

    ZeroQ (arXiv 2001.00281) starts from it and optimises the pixels until the teacher's
    BatchNorms see their statistics.
    """

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Of the noise of one image, ``(C, H, W)``."""
        return self.input_shape

    def forward(self, latent: Tensor, class_vector: Tensor) -> Tensor:
        """The noise ``[N, C, H, W]`` within the bounds."""
        return torch.minimum(torch.maximum(latent, self.low), self.high)
