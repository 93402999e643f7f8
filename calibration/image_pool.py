"""Room for the images of a run: in memory, or in a file that is mapped into it."""

import os
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["ImagePool", "pool_bytes"]


def pool_bytes(count: int, shape: tuple[int, int, int]) -> int:
    """Size of ``count`` float32 images ``(C, H, W)``."""
    return 4 * count * shape[0] * shape[1] * shape[2]


class ImagePool:
    """Images ``[N, C, H, W]`` that are filled in place by place.

    Args:
        count: N.
        shape: ``(C, H, W)``.
        file: where they are; in memory, if not given. What the file holds is kept.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], file: Path | None = None) -> None:
        self._file = file
        if file is None:
            self.images = torch.empty(count, *shape)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        size = pool_bytes(count, shape) // 4
        flat = torch.from_file(str(file), shared=True, size=size, dtype=torch.float32)
        self.images = flat.reshape(count, *shape)

    def put(self, places: Tensor, images: Tensor) -> None:
        """Fill in images ``[n, C, H, W]`` at ``places`` ``[n]``."""
        self.images[places] = images

    def state(self, places: Tensor) -> Tensor | None:
        """The images at ``places``; None where they stay in the file, which is then synced."""
        if self._file is None:
            return self.images[places]
        with self._file.open("rb") as file:
            os.fsync(file.fileno())
        return None
