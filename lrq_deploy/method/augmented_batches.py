"""Random batches of a pool of images, augmented; their state can be kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["AugmentedBatches"]

SHIFT_FRACTION = 8
MOVED_TOGETHER = 16


class AugmentedBatches:
    """Endless batches; every image is seen before any comes twice.

    Args:
        images: pool ``[N, C, H, W]`` on the CPU.
        batch_size: images per batch.
        seed: of the order and the augmentation.
        ranks: that share each batch; all of them draw it alike, so that their states agree.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int, ranks: Ranks = ALONE) -> None:
        self._images = images
        self._batch_size = batch_size
        self._part = ranks.part(batch_size)
        self._random = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)

    def draw(self) -> Tensor:
        """This rank's part ``[n, C, H, W]`` of the next batch."""
        while len(self._order) < self._batch_size:
            more = torch.randperm(len(self._images), generator=self._random)
            self._order = torch.cat([self._order, more])
        rest = len(self._order) - self._batch_size
        chosen, self._order = self._order.split([self._batch_size, rest])
        parts = []
        for first in range(0, self._batch_size, MOVED_TOGETHER):
            move = _Move.draw(self._images.shape, self._random)
            wanted = range(first, self._batch_size)[:MOVED_TOGETHER]
            mine = chosen[max(wanted.start, self._part.start) : min(wanted.stop, self._part.stop)]
            if len(mine):
                parts.append(move.of(self._images[mine]))
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        """What is left of the order, and the random numbers."""
        return {"order": self._order.clone(), "random": self._random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, with the same pool."""
        self._order = state["order"]
        self._random.set_state(state["random"])


@dataclass(frozen=True)
class _Move:
    """Mirror or not, and move by up to an eighth of the side, reflecting at the border."""

    mirrored: bool
    top: int
    left: int

    @classmethod
    def draw(cls, shape: torch.Size, random: torch.Generator) -> Self:
        """One at random, for images of a ``shape`` ``[N, C, H, W]``."""
        mirrored = bool(torch.rand((), generator=random) < 0.5)
        rows, columns = (side // SHIFT_FRACTION for side in shape[2:])
        top = int(torch.randint(2 * rows + 1, (), generator=random))
        left = int(torch.randint(2 * columns + 1, (), generator=random))
        return cls(mirrored, top, left)

    def of(self, images: Tensor) -> Tensor:
        """``images`` ``[N, C, H, W]``, moved."""
        if self.mirrored:
            images = images.flip(3)
        height, width = images.shape[2:]
        rows, columns = height // SHIFT_FRACTION, width // SHIFT_FRACTION
        padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
        return padded[:, :, self.top : self.top + height, self.left : self.left + width]
