"""What an image processor of transformers does to an image, found by giving it images.

Its classes have attributes of many names and meanings; their results are of one form.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrq_deploy.errors import CheckpointError

__all__ = ["ProcessedImages", "observe_processor"]

_HEIGHT, _WIDTH = 512, 768
_BLACK, _WHITE = 0.0, 255.0
_TOLERANCE = 1e-3
_DIGITS = 6
_HALF_A_PIXEL = 0.5
_PROPORTION = 0.05


@dataclass(frozen=True)
class ProcessedImages:
    """What becomes of an RGB image.

    Attributes:
        size: ``(height, width)`` of the result.
        mean, std: per channel, in units of the 0..1 pixel range.
        resize: shorter side in pixels before the centre crop to ``size``; None if resized
            directly.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None


def observe_processor(process: Callable[[Tensor], Tensor]) -> ProcessedImages:
    """Find out what a processor does.

    Args:
        process: an image ``[3, H, W]``, float32, 0..255, to ``[3, h, w]``.

    Raises:
        CheckpointError: channels are reordered or mixed, or black and white are no two values.
    """
    black, white = (_centre(process(_plain([value] * 3))) for value in (_BLACK, _WHITE))
    for channel in range(3):
        mixed = [_WHITE if n == channel else _BLACK for n in range(3)]
        expected = black.clone()
        expected[channel] = white[channel]
        if not torch.allclose(_centre(process(_plain(mixed))), expected, atol=_TOLERANCE):
            raise _refused("it reorders or mixes the channels of RGB images")
    if not bool((white > black).all()):
        raise _refused("it makes white no larger than black")
    std = 1 / (white - black)
    size, resize = _geometry(process, black, white)
    mean = tuple(_rounded(x) for x in (-black * std).tolist())
    return ProcessedImages(size, mean, tuple(_rounded(x) for x in std.tolist()), resize)


def _geometry(
    process: Callable[[Tensor], Tensor], black: Tensor, white: Tensor
) -> tuple[tuple[int, int], int | None]:
    """Size of the result, and the shorter side that an image is resized to before it is cut."""
    columns = torch.arange(_WIDTH).expand(3, _HEIGHT, _WIDTH) / _WIDTH
    rows = torch.arange(_HEIGHT)[:, None].expand(3, _HEIGHT, _WIDTH) / _HEIGHT
    seen = [
        (process(_WHITE * ramp.contiguous()) - black[:, None, None])
        / (white - black)[:, None, None]
        for ramp in (rows, columns)
    ]
    height, width = seen[0].shape[-2:]
    # A ramp stays one when it is resized: its slope tells the size before the cut.
    tall = 1 / _slope(seen[0][0, :, width // 2])
    wide = 1 / _slope(seen[1][0, height // 2, :])
    if abs(tall - height) > _HALF_A_PIXEL or abs(wide - width) > _HALF_A_PIXEL:
        return (height, width), round(min(tall, wide))
    if abs(wide / tall - _WIDTH / _HEIGHT) > _PROPORTION:
        return (height, width), None
    # Images keep their proportions and nothing is cut: those that this project takes are square.
    return (min(height, width),) * 2, min(height, width)


def _slope(values: Tensor) -> float:
    """Rise per pixel over the middle half of a row, where no border is near."""
    first, last = len(values) // 4, len(values) - 1 - len(values) // 4
    return max(float(values[last] - values[first]) / (last - first), 1e-6)


def _plain(colour: list[float]) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, _HEIGHT, _WIDTH).contiguous()


def _centre(image: Tensor) -> Tensor:
    return image[:, image.shape[1] // 2, image.shape[2] // 2].double()


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0


def _refused(what: str) -> CheckpointError:
    return CheckpointError(
        "the image processor beside the weights must scale each channel of an RGB image",
        what,
        "pass --mean, --std and --input-shape for the images that the network reads",
    )
