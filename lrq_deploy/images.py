"""The user's image folder, read only to measure and never to train."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lrq_deploy.classify import CHANNELS, DECODING_ERRORS, FORMATS, normalise, read_pixels
from lrq_deploy.errors import ImageError
from lrq_deploy.teacher import Preprocessing

__all__ = ["FolderOption", "ImageReader", "ImageSet", "read_image_folder"]

# Decoded sets up to this size stay in memory as bytes; larger ones are decoded again per batch.
_MEMORY_LIMIT_BYTES = 256 * 1024 * 1024


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
        classes: names of the class folders, sorted; empty without labels.
        skipped: files that could not be decoded.
        note: a sentence on what was left out and why, or empty.
        reader: how a file becomes an input.
        pixels: all images ``[N, C, H, W]`` uint8 where they fit in memory.
    """

    source: Path
    paths: tuple[Path, ...]
    labels: Tensor | None
    classes: tuple[str, ...]
    skipped: int
    note: str
    reader: ImageReader
    pixels: Tensor | None = None

    def __len__(self) -> int:
        """Number of readable images."""
        return len(self.paths)

    def numbers(self) -> Tensor | None:
        """Number of each class folder ``[K]`` where it is not its place among the sorted names.

        Folders called 0 to K-1 may have been sorted as text (10 before 2) or as numbers.
        """
        if not all(name.isascii() and name.isdecimal() for name in self.classes):
            return None
        numbers, places = [int(name) for name in self.classes], list(range(len(self.classes)))
        return torch.tensor(numbers) if numbers != places == sorted(numbers) else None

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


@dataclass(frozen=True)
class FolderOption:
    """The option that names an image folder, for messages.

    Attributes:
        name: as the user passes it.
        without: what a command does where it is left out.
    """

    name: str = "--images"
    without: str = "the student is then measured on synthetic images"


_IMAGES = FolderOption()


@dataclass(frozen=True)
class _Listing:
    """Image files of a folder with the index of their class folder."""

    paths: list[Path]
    class_indices: list[int] | None
    classes: tuple[str, ...]
    note: str


def read_image_folder(
    folder: Path,
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    num_classes: int | None,
    limit: int | None = None,
    option: FolderOption = _IMAGES,
) -> ImageSet:
    """Read an ImageFolder (one subfolder per class) or a folder of unlabelled images.

    Labels are the indices of the sorted subfolder names, and only where there are as many
    subfolders as logits. Broken files are skipped and counted.

    Args:
        folder: the directory.
        input_shape: ``(C, H, W)`` of the network.
        preprocessing: resizing and normalisation.
        num_classes: length of a row of logits; None where a folder cannot tell the labels.
        limit: read at most this many files, spread evenly over the folder.
        option: that named the folder.

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
    listing = _list_images(folder, num_classes, option)
    kept = _spread(len(listing.paths), limit)
    reader = ImageReader(input_shape, preprocessing)
    channels, height, width = input_shape
    in_memory = len(kept) * channels * height * width <= _MEMORY_LIMIT_BYTES
    readable: list[int] = []
    decoded: list[Tensor] = []
    for index in kept:
        try:
            pixels = reader.pixels(listing.paths[index])
        except DECODING_ERRORS:
            continue
        readable.append(index)
        if in_memory:
            decoded.append(pixels)
    if not readable:
        raise ImageError(
            "the image folder must hold at least one readable image",
            f"{len(kept)} broken files in {folder}",
            "check that the files are complete JPEG, PNG, WebP or BMP images",
        )
    indices = listing.class_indices
    return ImageSet(
        source=folder,
        paths=tuple(listing.paths[i] for i in readable),
        labels=None if indices is None else torch.tensor([indices[i] for i in readable]),
        classes=listing.classes,
        skipped=len(kept) - len(readable),
        note=listing.note,
        reader=reader,
        pixels=torch.stack(decoded) if in_memory else None,
    )


def _list_images(folder: Path, num_classes: int | None, option: FolderOption) -> _Listing:
    if not folder.is_dir():
        raise ImageError(
            f"{option.name} must name a folder",
            f"{folder}, which is {'a file' if folder.exists() else 'missing'}",
            f"pass a folder of images, or leave out {option.name}; {option.without}",
        )
    if not _open(folder):
        raise ImageError(
            f"{option.name} must name a folder that can be read",
            f"{folder}",
            "check its permissions",
        )
    closed: list[OSError] = []
    subfolders = _subfolders(folder)
    by_class = [_images_below(p, closed.append) for p in subfolders]
    loose = sorted(p for p in folder.iterdir() if _is_image(p))
    left_out = f"{len(closed)} folders could not be read and were left out" if closed else ""
    if not loose and not any(by_class):
        raise ImageError(
            "the image folder must hold images",
            f"no image file in {folder}" + (f", where {left_out}" if closed else ""),
            "pass one subfolder per class, or a folder of unlabelled images",
        )
    if len(subfolders) < 2 or not any(by_class):
        note = _note_of_one(subfolders[0], loose, num_classes, option) if any(by_class) else ""
        listing = _Listing(loose or by_class[0], None, (), note)
    elif num_classes is None:
        every = [*loose, *(path for files in by_class for path in files)]
        listing = _Listing(every, None, (), "")
    else:
        listing = _listing_by_class(folder, subfolders, by_class, len(loose), num_classes)
    return replace(listing, note="; ".join(note for note in (listing.note, left_out) if note))


def _note_of_one(
    subfolder: Path, loose: list[Path], num_classes: int | None, option: FolderOption
) -> str:
    """What the only subfolder means, beside images or alone."""
    if loose:
        note = f"images in the subfolder {subfolder.name} were left out, for some lie outside it"
    elif num_classes is None:
        return ""
    else:
        note = f"one subfolder, {subfolder.name}, tells no labels"
    wanted = None if num_classes is None else _with_classes(subfolder, num_classes)
    if wanted is None:
        return note if loose else f"{note}; agreement with the teacher is measured instead"
    return f"{note}; for its {num_classes} class folders pass {option.name} {wanted}"


def _with_classes(folder: Path, num_classes: int) -> Path | None:
    """The first folder with a folder per logit, down from one that may hold nothing else."""
    inner = _subfolders(folder)
    while len(inner) == 1 and num_classes > 1:
        folder, inner = inner[0], _subfolders(inner[0])
    return folder if len(inner) == num_classes > 1 else None


def _open(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _subfolders(folder: Path) -> list[Path]:
    if not _open(folder):
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p))


def _listing_by_class(
    folder: Path,
    subfolders: list[Path],
    by_class: list[list[Path]],
    loose: int,
    num_classes: int,
) -> _Listing:
    found = len(subfolders)
    if found > num_classes:
        raise ImageError(
            f"the image folder may have at most {num_classes} class folders, one per logit",
            f"{found} in {folder}",
            "pass the test set of this network",
        )
    paths = [path for files in by_class for path in files]
    notes = []
    if loose:
        notes.append(f"{loose} images outside the class folders were left out")
    if found < num_classes:
        notes.append(
            f"{found} class folders for {num_classes} logits tell no labels; "
            "agreement with the teacher is measured instead"
        )
        return _Listing(paths, None, (), "; ".join(notes))
    indices = [index for index, files in enumerate(by_class) for _ in files]
    return _Listing(paths, indices, tuple(p.name for p in subfolders), "; ".join(notes))


def _images_below(folder: Path, on_closed: Callable[[OSError], None]) -> list[Path]:
    """Image files of a folder and those below; a folder that cannot be read is reported."""
    found = []
    for at, _, names in os.walk(folder, onerror=on_closed):  # rglob passes over such folders
        if not _open(Path(at)):  # it may be listed and yet not entered
            on_closed(PermissionError(at))
            continue
        found += [path for name in names if _is_image(path := Path(at, name))]
    return sorted(found)


def _is_image(path: Path) -> bool:
    """Whether the suffix names an accepted format; contents are judged on reading."""
    if _hidden(path):
        return False
    return Image.registered_extensions().get(path.suffix.lower()) in FORMATS and path.is_file()


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


def _spread(count: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` of ``count`` items, evenly spaced."""
    if limit is None or count <= limit:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
