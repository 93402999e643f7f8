"""Made images to validate a bundle on: the same ones on every machine.

A bundle carries no generator, only the grid of its synthetic images. New images are mixtures of
two of them, mirrored or not, with noise of up to ``NOISE`` pixel steps, rounded to the 8 bits of
a camera. They are no test of accuracy; they are inputs in the range for which the scales were set.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import GRID_NAME, Bundle
from lrq_deploy.export.bundle.image_grid import grid_images, noted_range
from lrq_deploy.images import ImageReader
from lrq_deploy.student.frozen import FrozenQuantizer, QuantizedModel

__all__ = ["NOISE", "synthetic_batches"]

_Ends = tuple[Tensor, Tensor]
"""Values that a pixel of 0 and one of 255 stand for."""

NOISE = 16
"""Largest change of a pixel by noise, of 255."""


def synthetic_batches(
    bundle: Bundle, model: QuantizedModel, count: int, batch_size: int = 64
) -> Iterator[Tensor]:
    """``count`` normalised images in batches ``[n, C, H, W]``; the grid's own come first.

    Raises:
        BundleError: the bundle has no grid, or it holds no images of the network's shape.
    """
    grid, ends = _grid_and_range(bundle)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        own = grid[start : start + size]
        mixed = _mixtures(grid, size - len(own), generator)
        yield _normalised(torch.cat([own, mixed]), model, ends)


def _grid_and_range(bundle: Bundle) -> tuple[Tensor, _Ends | None]:
    path = bundle.file(GRID_NAME)
    channels, height, width = bundle.manifest.input_shape
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            ends = noted_range(picture.info)
            sheet = np.array(picture.convert("RGB" if channels == 3 else "L"))
        return grid_images(sheet, (channels, height, width)), ends
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BundleError(
            f"{GRID_NAME} must be a grid of {channels}x{height}x{width} images",
            f"{path} ({error})",
            "pass --images with a folder of images",
        ) from error


def _mixtures(grid: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """uint8 ``[count, C, H, W]``."""
    first, second = (
        grid[torch.randint(len(grid), (count,), generator=generator)].float() for _ in range(2)
    )
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    share = torch.rand(count, 1, 1, 1, generator=generator)
    noise = (2 * torch.rand(first.shape, generator=generator) - 1) * NOISE
    mixed = share * torch.where(mirrored, first.flip(3), first) + (1 - share) * second + noise
    return mixed.round().clamp(0, 255).to(torch.uint8)


def _normalised(pixels: Tensor, model: QuantizedModel, ends: _Ends | None) -> Tensor:
    if model.preprocessing.known:
        return ImageReader(model.input_shape, model.preprocessing).normalise(pixels)
    # Bundles without the note: all that is known then is what the first quantizer can hold.
    low, high = ends or _range_of_the_first(model)
    return low + pixels.to(torch.float32) / 255 * (high - low)


def _range_of_the_first(model: QuantizedModel) -> tuple[Tensor, Tensor]:
    first: FrozenQuantizer = next(iter(model.quantizers().values()))
    qparams = first.qparams
    low, high = (end - int(qparams.zero_point) for end in (qparams.qmin, qparams.qmax))
    return low * qparams.scale, high * qparams.scale
