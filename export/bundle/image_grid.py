"""The synthetic images as one picture."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrq_deploy.classify import CHANNELS
from lrq_deploy.teacher import Preprocessing

__all__ = ["grid_images", "grid_png", "noted_range"]

_MAX_SIDE = 8
_GAP = 2
_MIN_PIXELS = 64
_RANGE = "range of each channel"
"""Key of a note in the file: values that are drawn as 0, and as 255."""


def grid_png(images: Tensor, preprocessing: Preprocessing) -> bytes:
    """PNG of the first images, up to 8 x 8, in the colours a camera would have delivered.

    Args:
        images: normalised ``[N, C, H, W]``, N at least 1. One channel is drawn grey, three in
            colour, others grey and side by side.
        preprocessing: undone; where it is not known, each channel is spread over 0..255, and the
            file notes from where to where.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    images, notes = images[: _MAX_SIDE**2].detach().cpu().float(), PngInfo()
    if not preprocessing.known:
        notes.add_text(_RANGE, json.dumps([ends.flatten().tolist() for ends in _ends(images)]))
    pixels = _drawn(_pixels(images, preprocessing))
    count, channels, height, width = pixels.shape
    zoom = _zoom(height, width)
    pixels = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    columns = min(_MAX_SIDE, int(-(-(count**0.5) // 1)))
    rows = -(-count // columns)
    tall, wide = height * zoom + _GAP, width * zoom + _GAP
    sheet = torch.full((channels, rows * tall + _GAP, columns * wide + _GAP), 255).to(torch.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * tall + _GAP, index % columns * wide + _GAP
        sheet[:, top : top + height * zoom, left : left + width * zoom] = image
    array = sheet[0].numpy() if channels == 1 else sheet.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", pnginfo=notes)
    return buffer.getvalue()


def grid_images(sheet: NDArray[np.uint8], shape: tuple[int, int, int]) -> Tensor:
    """The images of a grid that ``grid_png`` drew, ``[N, C, H, W]`` uint8.

    Args:
        sheet: pixels ``[height, width]`` or ``[height, width, 3]``.
        shape: ``(C, H, W)`` of one image.

    Raises:
        ValueError: the picture is not a grid of such images.
    """
    channels, height, width = _drawn(torch.empty(1, *shape)).shape[1:]
    zoom = _zoom(height, width)
    tall, wide = height * zoom + _GAP, width * zoom + _GAP
    pixels = torch.from_numpy(sheet).reshape(*sheet.shape[:2], -1).permute(2, 0, 1)
    rows, columns = (pixels.shape[1] - _GAP) // tall, (pixels.shape[2] - _GAP) // wide
    expected = (channels, rows * tall + _GAP, columns * wide + _GAP)
    if tuple(pixels.shape) != expected or rows * columns == 0:
        raise ValueError(f"a picture of {sheet.shape[1]}x{sheet.shape[0]} pixels")
    cells = pixels[:, _GAP:, _GAP:].unfold(1, height * zoom, tall).unfold(2, width * zoom, wide)
    images = cells[..., ::zoom, ::zoom].permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous()
    # The last row may end with empty cells, which are white.
    drawn = torch.nonzero((images != 255).flatten(1).any(1)).flatten()
    return _undrawn(images[: int(drawn[-1]) + 1 if len(drawn) else 1], shape)


def noted_range(notes: Mapping[Any, Any]) -> tuple[Tensor, Tensor] | None:
    """Normalised values of 0 and of 255, ``[C, 1, 1]`` each; None where the file notes none.

    Args:
        notes: texts of the file, by their keys.
    """
    if _RANGE not in notes:
        return None
    low, high = torch.tensor(json.loads(notes[_RANGE])).unflatten(1, (-1, 1, 1))
    return low, high


def _ends(images: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each channel, ``[1, C, 1, 1]``."""
    return images.amin((0, 2, 3), True), images.amax((0, 2, 3), True)


def _drawn(images: Tensor) -> Tensor:
    """``[N, C, H, W]`` as a picture can hold it; channels without a colour come side by side."""
    count, channels, height, width = images.shape
    if channels in CHANNELS:
        return images
    return images.transpose(1, 2).reshape(count, 1, height, channels * width)


def _undrawn(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The opposite of ``_drawn``, for images of ``(C, H, W)``."""
    channels, height, width = shape
    if channels in CHANNELS:
        return pixels
    return pixels.reshape(len(pixels), height, channels, width).transpose(1, 2).contiguous()


def _zoom(height: int, width: int) -> int:
    """Enlargement of small images, so that they can be seen."""
    return max(1, _MIN_PIXELS // max(height, width))


def _pixels(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``[N, C, H, W]``."""
    if preprocessing.known:
        mean, std = (
            torch.tensor(v).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
        )
        unit = images * std + mean
    else:
        low, high = _ends(images)
        unit = (images - low) / (high - low).clamp_min(1e-12)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)
