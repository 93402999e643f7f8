"""Random batches of a pool of images, in a few views of each; their state can be kept.

A view is moved, and blended with a painted image: a teacher is surer of a generator's images than
of photos, and less sure of painted ones; what lies between is nearer to photos than either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["VIEWS", "AugmentedBatches", "DrawnBatch"]

SHIFT_FRACTION = 8

VIEWS = 8
"""Ways in which an image is ever moved: few, so that the teacher can answer each once."""


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
        overlays: to blend the views with, ``[P, C, H, W]`` on the CPU; none leaves them.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        seed: int,
        ranks: Ranks = ALONE,
        overlays: Tensor | None = None,
    ) -> None:
        self._images = images
        self._batch_size = batch_size
        self._part = ranks.part(batch_size)
        self._random = torch.Generator().manual_seed(seed)
        self._moves = _Moves(VIEWS, images.shape, self._random)
        self._blends: _Blends | None = None
        if overlays is not None and len(overlays):
            self._blends = _Blends(self.views, overlays, self._random)
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
        mine = rows[self._part]
        shown = self._moves.of(self._images, mine)
        if self._blends is not None:
            shown = self._blends.of(shown, mine)
        return DrawnBatch(shown, rows, self._part, first < self.views)

    def state_dict(self) -> dict[str, Any]:
        """What is left of the order, and the random numbers."""
        order, random = self._order.clone(), self._random.get_state()
        return {"order": order, "random": random, "rounds": self._rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, with the same pool and seed."""
        self._order, self._rounds = state["order"], state["rounds"]
        self._random.set_state(state["random"])


class _Moves:
    """Mirror or not, and move by up to an eighth of the side, reflecting at the border.

    Every other view is mirrored; by how far it moves is random for each image of each view.

    Args:
        views: of each image.
        shape: of the pool, ``[N, C, H, W]``.
        random: what draws the moves.
    """

    def __init__(self, views: int, shape: torch.Size, random: torch.Generator) -> None:
        self._count, _, *self._sides = shape
        self._reach = [side // SHIFT_FRACTION for side in self._sides]
        self._starts = [
            torch.randint(2 * reach + 1, (views * self._count,), generator=random)
            for reach in self._reach
        ]

    def of(self, pool: Tensor, rows: Tensor) -> Tensor:
        """``rows`` of the pool, each moved in its own way."""
        images = pool[rows % self._count]
        mirrored = rows // self._count % 2 == 1
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        (up, left), (height, width) = self._reach, self._sides
        padded = F.pad(images, (left, left, up, up), mode="reflect")
        tops, lefts = (starts[rows].tolist() for starts in self._starts)
        moved = zip(padded, tops, lefts, strict=True)
        return torch.stack([x[:, y : y + height, z : z + width] for x, y, z in moved])


class _Blends:
    """The overlay of each view, and how much of the view remains: any share is as likely.

    Args:
        views: of all images.
        overlays: to choose from, ``[P, C, H, W]``.
        random: what chooses.
    """

    def __init__(self, views: int, overlays: Tensor, random: torch.Generator) -> None:
        self._overlays = overlays
        self._chosen = torch.randint(len(overlays), (views,), generator=random)
        self._remains = torch.rand(views, generator=random)

    def of(self, shown: Tensor, rows: Tensor) -> Tensor:
        """``shown``, the views of ``rows``, each blended in its own way."""
        remains = self._remains[rows][:, None, None, None]
        return torch.lerp(self._overlays[self._chosen[rows]], shown, remains)
