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
    """Images ``[N, C, H, W]`` that are filled in from the first to the last.

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

    def put(self, first: int, images: Tensor) -> None:
        """Fill in images from number ``first`` on."""
        self.images[first : first + len(images)] = images

    def state(self, count: int) -> Tensor | None:
        """The first ``count`` images; None where they stay in the file, which is then synced."""
        if self._file is None:
            return self.images[:count].clone()
        with self._file.open("rb") as file:
            os.fsync(file.fileno())
        return None
