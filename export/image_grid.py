"""The synthetic images as one picture."""

import io

import torch
from torch import Tensor

from lrq_deploy.teacher import Preprocessing

__all__ = ["grid_png"]

_MAX_SIDE = 8
_GAP = 2
_MIN_PIXELS = 64


def grid_png(images: Tensor, preprocessing: Preprocessing) -> bytes:
    """PNG of the first images, up to 8 x 8, in the colours a camera would have delivered.

    Args:
        images: normalised ``[N, C, H, W]``, C 1 or 3, N at least 1.
        preprocessing: undone; where it is not known, each channel is spread over 0..255.
    """
    from PIL import Image

    pixels = _pixels(images[: _MAX_SIDE**2].detach().cpu().float(), preprocessing)
    count, channels, height, width = pixels.shape
    zoom = max(1, _MIN_PIXELS // max(height, width))
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
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 ``[N, C, H, W]``."""
    if preprocessing.known:
        mean, std = (
            torch.tensor(v).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
        )
        unit = images * std + mean
    else:
        low, high = images.amin((0, 2, 3), True), images.amax((0, 2, 3), True)
        unit = (images - low) / (high - low).clamp_min(1e-12)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)
