"""Random batches of a pool of images, augmented; their state can be kept."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["AugmentedBatches"]

SHIFT_FRACTION = 8


class AugmentedBatches:
    """Endless batches; every image is seen before any comes twice.

    Args:
        images: pool ``[N, C, H, W]`` on the CPU.
        batch_size: images per batch.
        seed: of the order and the augmentation.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int) -> None:
        self._images = images
        self._batch_size = batch_size
        self._random = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self) -> Tensor:
        """The next batch ``[batch_size, C, H, W]``."""
        while len(self._order) < self._batch_size:
            more = torch.randperm(len(self._images), generator=self._random)
            self._order = torch.cat([self._order, more])
        rest = len(self._order) - self._batch_size
        chosen, self._order = self._order.split([self._batch_size, rest])
        parts = self._images[chosen].split(16)
        return torch.cat([_shifted(part, self._random) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        """What is left of the order, and the random numbers."""
        return {"order": self._order.clone(), "random": self._random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, with the same pool."""
        self._order = state["order"]
        self._random.set_state(state["random"])


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror at random and move by up to an eighth of the side, reflecting at the border."""
    if torch.rand((), generator=random) < 0.5:
        images = images.flip(3)
    height, width = images.shape[2:]
    rows, columns = height // SHIFT_FRACTION, width // SHIFT_FRACTION
    padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
    top = int(torch.randint(2 * rows + 1, (), generator=random))
    left = int(torch.randint(2 * columns + 1, (), generator=random))
    return padded[:, :, top : top + height, left : left + width]
