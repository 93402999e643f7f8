"""Random batches of a pool of images, in a few views of each; their state can be kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["VIEWS", "AugmentedBatches", "DrawnBatch"]

SHIFT_FRACTION = 8

VIEWS = 8
"""Ways in which images are ever moved: few, so that the teacher can answer each once."""


@dataclass(frozen=True)
class DrawnBatch:
    """A batch, or one rank's part of it.

    Attributes:
        images: of this rank, ``[n, C, H, W]``.
        rows: which image of the pool in which view, of the whole batch: ``view * N + image``.
        part: of ``rows`` that ``images`` are.
        new: whether some of these views have not been drawn before.
    """

    images: Tensor
    rows: Tensor
    part: slice
    new: bool


class AugmentedBatches:
    """Endless batches; every image is seen before any comes twice, in the next of its views.

    Args:
        images: pool ``[N, C, H, W]`` on the CPU.
        batch_size: images per batch.
        seed: of the order and the views.
        ranks: that share each batch; all of them draw it alike, so that their states agree.
    """

    def __init__(self, images: Tensor, batch_size: int, seed: int, ranks: Ranks = ALONE) -> None:
        self._images = images
        self._batch_size = batch_size
        self._part = ranks.part(batch_size)
        self._random = torch.Generator().manual_seed(seed)
        self._moves = [_Move.draw(v, images.shape, self._random) for v in range(VIEWS)]
        self._order = torch.empty(0, dtype=torch.int64)
        self._rounds = 0

    @property
    def views(self) -> int:
        """How many different images there are: ``rows`` are below it."""
        return VIEWS * len(self._images)

    def draw(self) -> DrawnBatch:
        """The next batch."""
        first = self._rounds * len(self._images) - len(self._order)
        while len(self._order) < self._batch_size:
            more = torch.randperm(len(self._images), generator=self._random)
            view = (more + self._rounds) % VIEWS
            self._order = torch.cat([self._order, view * len(self._images) + more])
            self._rounds += 1
        rest = len(self._order) - self._batch_size
        rows, self._order = self._order.split([self._batch_size, rest])
        return DrawnBatch(self._shown(rows[self._part]), rows, self._part, first < self.views)

    def _shown(self, rows: Tensor) -> Tensor:
        images = self._images.new_empty(len(rows), *self._images.shape[1:])
        views = rows // len(self._images)
        for view in views.unique().tolist():
            (chosen,) = torch.nonzero(views == view, as_tuple=True)
            images[chosen] = self._moves[view].of(self._images[rows[chosen] % len(self._images)])
        return images

    def state_dict(self) -> dict[str, Any]:
        """What is left of the order, and the random numbers."""
        order, random = self._order.clone(), self._random.get_state()
        return {"order": order, "random": random, "rounds": self._rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, with the same pool and seed."""
        self._order, self._rounds = state["order"], state["rounds"]
        self._random.set_state(state["random"])


@dataclass(frozen=True)
class _Move:
    """Mirror or not, and move by up to an eighth of the side, reflecting at the border."""

    mirrored: bool
    top: int
    left: int

    @classmethod
    def draw(cls, view: int, shape: torch.Size, random: torch.Generator) -> Self:
        """Every other view is mirrored; by how far it moves images ``[N, C, H, W]`` is random."""
        rows, columns = (side // SHIFT_FRACTION for side in shape[2:])
        top = int(torch.randint(2 * rows + 1, (), generator=random))
        left = int(torch.randint(2 * columns + 1, (), generator=random))
        return cls(view % 2 == 1, top, left)

    def of(self, images: Tensor) -> Tensor:
        """``images`` ``[N, C, H, W]``, moved."""
        if self.mirrored:
            images = images.flip(3)
        height, width = images.shape[2:]
        rows, columns = height // SHIFT_FRACTION, width // SHIFT_FRACTION
        padded = F.pad(images, (columns, columns, rows, rows), mode="reflect")
        return padded[:, :, self.top : self.top + height, self.left : self.left + width]
