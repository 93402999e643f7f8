"""Room for the images of a run: in memory, or in a file that is mapped into it."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from lrq_deploy.errors import WriteError

__all__ = ["ImagePool", "pool_bytes"]

READ_AT_ONCE = 64
"""Images of a file that are copied together for its digest."""


def pool_bytes(count: int, shape: tuple[int, int, int]) -> int:
    """Size of ``count`` float32 images ``(C, H, W)``."""
    return 4 * count * shape[0] * shape[1] * shape[2]


class ImagePool:
    """Images ``[N, C, H, W]`` that are filled in place by place.

    Args:
        count: N.
        shape: ``(C, H, W)``.
        file: where they are; in memory, if not given. What the file holds is kept.

    Raises:
        WriteError: the disk has no room for the file.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], file: Path | None = None) -> None:
        self._file = file
        # Of the first images, so that a state reads no more than is new.
        self._sum, self._summed = hashlib.sha256(), 0
        if file is None:
            self.images = torch.empty(count, *shape)
            return
        size = pool_bytes(count, shape)
        _reserve(file, size)
        flat = torch.from_file(str(file), shared=True, size=size // 4, dtype=torch.float32)
        self.images = flat.reshape(count, *shape)

    def put(self, places: Tensor, images: Tensor) -> None:
        """Fill in images ``[n, C, H, W]`` at ``places`` ``[n]``."""
        self.images[places] = images

    def state(self, places: Tensor) -> Tensor | str:
        """The images at ``places``, which may only grow from call to call.

        Where they stay in the file, that is synced, and this is the ``digest`` of them.
        """
        if self._file is None:
            return self.images[places]
        with self._file.open("rb") as file:
            os.fsync(file.fileno())
        self._add(self._sum, places[self._summed :])
        self._summed = len(places)
        return self._sum.hexdigest()

    def digest(self, places: Tensor) -> str:
        """SHA-256 in hex of the images at ``places``."""
        digest = hashlib.sha256()
        self._add(digest, places)
        return digest.hexdigest()

    def _add(self, digest: "hashlib._Hash", places: Tensor) -> None:
        for some in places.split(READ_AT_ONCE):
            digest.update(self.images[some].numpy().tobytes())


def _reserve(file: Path, size: int) -> None:
    """Take the room on the disk: a mapped file that finds none ends the process by a signal."""
    there = file.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as opened:
            # Not on macOS and Windows.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        if not there:
            file.unlink(missing_ok=True)
        raise WriteError(
            "--max-memory keeps the images on the disk, which must have room for them",
            f"{error.strerror or error} for {size / 2**20:,.0f} MiB at {file}",
            "free space on that disk, choose another --out or a larger --max-memory",
        ) from error
