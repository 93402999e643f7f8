"""Images of dead leaves: shapes that hide one another, as the things in a photo do.

Their sizes r have a density of r^-3, so that images look alike from near and far, as photos do
(Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 41, 2001). What networks learn
from such images carries over to photos (arXiv 2106.05963). Nothing of a network is in them: they
serve where it has no BatchNorm whose statistics a generator could be trained on.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.special import ndtr

from lrq_deploy.method.images.blind_source import BlindSource
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

__all__ = ["DeadLeaves"]

LEAVES = 64
TEXTURES = 3
RADII = (0.04, 0.7)
"""Smallest and largest leaf, in sides of the image."""
LIGHTS = 1.5
ROUGHNESS = 0.25
SHADING = 0.3
SHARPNESS = 6.0
"""Steepness of an edge per pixel."""
LARGEST_CHROMA = 0.3
OCTAVE_DECAY = 0.8
PIXELS = 64 * 1024
"""Painted at a time: few enough for a processor's cache, which is twice as fast at 224 x 224."""
IMAGE_NUMBERS = 3
LEAF_NUMBERS = 10


class DeadLeaves(BlindSource):
    """Paints leaves.

    Each number of a latent decides one thing: how bright, contrasty and colourful an image is, the
    place, size, form, shade and colour of each leaf, and three textures that they wear.

    Attributes:
        latent_shape: of the standard normal numbers of one image.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        preprocessing: Preprocessing,
        task: Task = "multiclass",
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(input_shape, num_classes, preprocessing, task, bounds)
        channels, height, width = input_shape
        self._octaves = [2**k for k in range(1, max(height, width).bit_length())]
        self._parts = [
            IMAGE_NUMBERS,
            channels,
            LEAVES * LEAF_NUMBERS,
            LEAVES * channels,
            *(TEXTURES * side**2 for side in self._octaves),
        ]
        self.latent_shape = (sum(self._parts),)
        self.register_buffer("rows", _middles(height)[:, None])
        self.register_buffer("columns", _middles(width))

    rows: Tensor
    columns: Tensor

    def forward(self, latent: Tensor, class_vector: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` within the bounds, from latents ``[N, *latent_shape]``."""
        some = max(PIXELS // (self.input_shape[1] * self.input_shape[2]), 1)
        return torch.cat([self._painted(part) for part in latent.split(some)])

    def _painted(self, latent: Tensor) -> Tensor:
        count, channels = len(latent), self.input_shape[0]
        image, ground, leaf, colour, *waves = latent.split(self._parts, 1)
        mean, contrast, chroma = ndtr(image).view(count, IMAGE_NUMBERS, 1, 1, 1).unbind(1)
        chroma = LARGEST_CHROMA * chroma**1.5
        textures = self._textures(waves)
        painted = _tint(ground.view(count, channels, 1, 1), chroma) + ROUGHNESS / 3 * textures[0]
        leaves = ndtr(leaf).view(count, LEAVES, LEAF_NUMBERS, 1, 1)
        colours = colour.view(count, LEAVES, channels, 1, 1)
        for k in range(LEAVES):
            cover, shade = self._leaf(leaves[:, k], textures[k % TEXTURES])
            fill = _tint(colours[:, k], chroma) + shade
            painted = torch.lerp(painted, fill, cover)
        pixels = (0.15 + 0.7 * mean + (0.3 + contrast) * painted).clamp(0, 1)
        images: Tensor = self.low + (self.high - self.low) * pixels
        return images

    def _leaf(self, numbers: Tensor, texture: Tensor) -> tuple[Tensor, Tensor]:
        """How far a leaf of numbers in 0..1 covers each pixel, and its light and dark parts.

        Both ``[N, 1, H, W]``; its edge is less than a pixel wide.
        """
        size, row, column, turn, thin, round_, light, *slopes, rough = numbers[:, None].unbind(2)
        first, last = (r**-2 for r in RADII)
        radius = (first + size * (last - first)).rsqrt()
        down, right = self.rows - row, self.columns - column
        cos, sin = torch.cos(math.pi * turn), torch.sin(math.pi * turn)
        along = (cos * right + sin * down) / radius
        across = (cos * down - sin * right) / (radius * (0.35 + 0.65 * thin))
        ellipse = (along.square() + across.square()).sqrt()
        rectangle = torch.maximum(along.abs(), across.abs())
        distance = torch.where(round_ < 0.5, ellipse, rectangle)
        cover = torch.sigmoid((1 - distance) * radius * (SHARPNESS * self.input_shape[1]))
        slope = (slopes[0] - 0.5) * along + (slopes[1] - 0.5) * across
        shade = (
            LIGHTS * (light - 0.5) + SHADING * slope.clamp(-1, 1) + ROUGHNESS * rough**2 * texture
        )
        return cover, shade

    def _textures(self, waves: list[Tensor]) -> list[Tensor]:
        """Noise whose octaves fall with their frequency, each ``[N, 1, H, W]``, deviation 1."""
        size = self.input_shape[1:]
        total = waves[0].new_zeros(len(waves[0]), TEXTURES, *size)
        for side, wave in zip(self._octaves, waves, strict=True):
            octave = wave.view(len(wave), TEXTURES, side, side) * side**-OCTAVE_DECAY
            total += F.interpolate(octave, size, mode="bilinear", align_corners=False)
        return list((total / total.std((2, 3), keepdim=True)).split(1, 1))


def _middles(count: int) -> Tensor:
    """Of pixels, in sides of the image."""
    return (torch.arange(count) + 0.5) / count


def _tint(colour: Tensor, chroma: Tensor) -> Tensor:
    """A colour ``[N, C, 1, 1]`` that is neither light nor dark."""
    return (colour - colour.mean(1, keepdim=True)) * chroma
