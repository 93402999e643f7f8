"""The user's image folder, read only to measure and never to train."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lrq_deploy.classify import CHANNELS, DECODING_ERRORS, normalise, read_pixels
from lrq_deploy.errors import ImageError
from lrq_deploy.image_listing import FolderOption, list_images
from lrq_deploy.teacher import Preprocessing

__all__ = ["ImageReader", "ImageSet", "read_image_folder"]

# Decoded sets up to this size stay in memory as bytes; larger ones are decoded again per batch.
_MEMORY_LIMIT_BYTES = 256 * 1024 * 1024


_IMAGES = FolderOption()


@dataclass(frozen=True)
class ImageReader:
    """Turns an image file into a network input.

    Attributes:
        input_shape: ``(C, H, W)``; one channel reads grey, three read RGB.
        preprocessing: resizing and normalisation.
    """

    input_shape: tuple[int, int, int]
    preprocessing: Preprocessing

    def pixels(self, path: Path) -> Tensor:
        """Decode and resize one file to ``[C, H, W]`` uint8.

        An image that already has the input size keeps its exact pixels. Otherwise it is
        resized (with antialiasing), to ``(H, W)`` or, where the preprocessing
        names a shorter side, to that side and then cropped at the centre.

        Raises:
            classify.DECODING_ERRORS: the file is no complete image.
        """
        how = self.preprocessing
        array = read_pixels(path, self.input_shape, how.resize, how.interpolation)
        return torch.from_numpy(array)

    def normalise(self, pixels: Tensor) -> Tensor:
        """``(pixel / 255 - mean) / std`` of ``[N, C, H, W]`` uint8, as float32."""
        how = self.preprocessing
        return torch.from_numpy(normalise(pixels.numpy(), how.mean, how.std))


@dataclass(frozen=True)
class ImageSet:
    """Readable images of a folder, in a fixed order.

    Attributes:
        source: the folder.
        paths: the files.
        labels: class of each file ``[N]`` int64, or ``None`` where the folder tells none.
        numbers: number of each class folder ``[K]`` where these are 0 to K-1 and may have been
            sorted as numbers or, as ``labels`` are, as text (10 before 2); else None.
        skipped: files that could not be decoded.
        note: a sentence on what was left out and why, or empty.
        reader: how a file becomes an input.
        pixels: all images ``[N, C, H, W]`` uint8 where they fit in memory.
    """

    source: Path
    paths: tuple[Path, ...]
    labels: Tensor | None
    numbers: Tensor | None
    skipped: int
    note: str
    reader: ImageReader
    pixels: Tensor | None = None

    def __len__(self) -> int:
        """Number of readable images."""
        return len(self.paths)

    def remarks(self) -> tuple[str, ...]:
        """What the user should know of the folder, a sentence each."""
        broken = f"{self.skipped} of {len(self) + self.skipped} image files could not be decoded"
        skipped = (f"{broken} and were skipped",) if self.skipped else ()
        return (*skipped, *((self.note,) if self.note else ()))

    def spread(self, limit: int) -> "ImageSet":
        """At most ``limit`` of the images, evenly spaced in their order."""
        chosen = _spread(len(self), limit)
        return replace(
            self,
            paths=tuple(self.paths[index] for index in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            pixels=None if self.pixels is None else self.pixels[chosen],
        )

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Normalised images ``[n, C, H, W]`` float32, ``n <= batch_size``, in order.

        Raises:
            ImageError: a file was removed or changed since the folder was read.
        """
        for start in range(0, len(self), batch_size):
            if self.pixels is not None:
                yield self.reader.normalise(self.pixels[start : start + batch_size])
                continue
            paths = self.paths[start : start + batch_size]
            yield self.reader.normalise(torch.stack([self._decode_again(p) for p in paths]))

    def labelled_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The images of ``batches`` with their labels ``[n]``, or ``None`` without labels.

        Raises:
            ImageError: a file was removed or changed since the folder was read.
        """
        for index, batch in enumerate(self.batches(batch_size)):
            first = index * batch_size
            yield batch, None if self.labels is None else self.labels[first : first + batch_size]

    def _decode_again(self, path: Path) -> Tensor:
        try:
            return self.reader.pixels(path)
        except DECODING_ERRORS as error:
            raise ImageError(
                "images must not change during a run", f"{path}: {error}", "run again"
            ) from error


def read_image_folder(
    folder: Path,
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    num_classes: int | None,
    limit: int | None = None,
    option: FolderOption = _IMAGES,
    class_names: Sequence[str] = (),
) -> ImageSet:
    """Read an ImageFolder (one subfolder per class) or a folder of unlabelled images.

    Labels are by the names of the subfolders where all are class names, else the indices of the
    sorted names where there are as many as logits. Broken files are skipped and counted.

    Args:
        folder: the directory.
        input_shape: ``(C, H, W)`` of the network.
        preprocessing: resizing and normalisation.
        num_classes: length of a row of logits; None where a folder cannot tell the labels.
        limit: read at most this many files, spread evenly over the folder.
        option: that named the folder.
        class_names: in the order of the logits, or none where they are not known.

    Raises:
        ImageError: the folder is missing or holds no readable image, or it has more class
            folders than the network has logits, or the network does not take images of 1 or 3
            channels.
    """
    if input_shape[0] not in CHANNELS:
        raise ImageError(
            "image files hold 1 channel (grey) or 3 (RGB)",
            f"a network of {input_shape[0]} channels with {option.name} {folder}",
            f"leave out {option.name}; {option.without}",
        )
    listing = list_images(folder, num_classes, class_names, option)
    kept = _spread(len(listing.paths), limit)
    reader = ImageReader(input_shape, preprocessing)
    readable, pixels = _decoded(listing.paths, kept, reader)
    if not readable:
        raise ImageError(
            "the image folder must hold at least one readable image",
            f"{len(kept)} broken files in {folder}",
            "check that the files are complete JPEG, PNG, WebP or BMP images",
        )
    labels, numbers = listing.labels, listing.numbers
    return ImageSet(
        source=folder,
        paths=tuple(listing.paths[i] for i in readable),
        labels=None if labels is None else torch.tensor([labels[i] for i in readable]),
        numbers=None if numbers is None else torch.tensor(numbers),
        skipped=len(kept) - len(readable),
        note=listing.note,
        reader=reader,
        pixels=pixels,
    )


def _decoded(
    paths: Sequence[Path], kept: Sequence[int], reader: ImageReader
) -> tuple[list[int], Tensor | None]:
    """Which of the ``kept`` paths are images, and their pixels where all fit in memory."""
    in_memory = len(kept) * math.prod(reader.input_shape) <= _MEMORY_LIMIT_BYTES
    readable: list[int] = []
    decoded: list[Tensor] = []
    for index in kept:
        try:
            pixels = reader.pixels(paths[index])
        except DECODING_ERRORS:
            continue
        readable.append(index)
        if in_memory:
            decoded.append(pixels)
    return readable, torch.stack(decoded) if decoded else None


def _spread(count: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``count`` items, evenly spaced."""
    if limit is None or count <= limit:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
