"""Which files of a folder are images, and what the names of its subfolders say of them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lrq_deploy.classify import FORMATS
from lrq_deploy.errors import ImageError

__all__ = ["FolderOption", "ImageListing", "list_images"]

_NAMED = 3
"""So many unknown folders are named."""


@dataclass(frozen=True)
class FolderOption:
    """The option that names an image folder, for messages.

    Attributes:
        name: as the user passes it.
        without: what a command does where it is left out.
    """

    name: str = "--images"
    without: str = "the student is then measured on synthetic images"


@dataclass(frozen=True)
class ImageListing:
    """Image files of a folder, in a fixed order.

    Attributes:
        paths: the files.
        labels: class of each file, or None where the folder tells none.
        numbers: number of each class folder where these are 0 to K-1 in another order than their
            names have as text (10 before 2) and no name of a class is known, else None.
        note: a sentence on what was left out and why, or empty.
    """

    paths: list[Path]
    labels: list[int] | None
    numbers: list[int] | None
    note: str


def list_images(
    folder: Path, num_classes: int | None, class_names: Sequence[str], option: FolderOption
) -> ImageListing:
    """Find the images of a folder and their labels.

    Args:
        folder: the directory.
        num_classes: length of a row of logits; None where a folder cannot tell the labels.
        class_names: in the order of the logits, or none where they are not known.
        option: that named the folder.

    Raises:
        ImageError: the folder is missing or holds no image file, or it has more class folders
            than the network has logits.
    """
    _check_readable(folder, option)
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
    is_class = not loose and _places(subfolders, class_names) is not None
    if not any(by_class) or (len(subfolders) == 1 and not is_class):
        note = _note_of_one(subfolders[0], loose, num_classes, option) if any(by_class) else ""
        listing = ImageListing(loose or by_class[0], None, None, note)
    elif num_classes is None:
        every = [*loose, *(path for files in by_class for path in files)]
        listing = ImageListing(every, None, None, "")
    else:
        _check_count(folder, len(subfolders), num_classes)
        listing = _by_class(subfolders, by_class, num_classes, class_names)
        if loose:
            outside = f"{len(loose)} images outside the class folders were left out"
            listing = replace(listing, note=_joined(outside, listing.note))
    return replace(listing, note=_joined(listing.note, left_out))


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _check_readable(folder: Path, option: FolderOption) -> None:
    # Not pathlib's questions, which raise where a name is too long or a folder is closed.
    if not os.path.isdir(folder):
        raise ImageError(
            f"{option.name} must name a folder",
            f"{folder}, which {'is a file' if os.path.exists(folder) else 'cannot be found'}",
            f"pass a folder of images, or leave out {option.name}; {option.without}",
        )
    if not _open(folder):
        raise ImageError(
            f"{option.name} must name a folder that can be read",
            f"{folder}",
            "check its permissions",
        )


def _check_count(folder: Path, found: int, num_classes: int) -> None:
    if found > num_classes:
        raise ImageError(
            f"the image folder may have at most {num_classes} class folders, one per logit",
            f"{found} in {folder}",
            "pass the test set of this network",
        )


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
    return sorted(p for p in folder.iterdir() if os.path.isdir(p) and not _hidden(p))


def _by_class(
    subfolders: list[Path],
    by_class: list[list[Path]],
    num_classes: int,
    class_names: Sequence[str],
) -> ImageListing:
    """Labels by the names of the folders where they are the network's, else by their order."""
    found = len(subfolders)
    paths = [path for files in by_class for path in files]
    places = _places(subfolders, class_names)
    notes = []
    if places is None:
        notes.append(_unknown(subfolders, class_names))
    elif places != list(range(found)):
        notes.append("class folders are taken by their names, which the model file states")
    untold = "" if places is not None else _untold(subfolders, num_classes, class_names)
    if untold:
        notes.append(f"{untold}; agreement with the teacher is measured instead")
        return ImageListing(paths, None, None, _joined(*notes))
    if found < num_classes:
        notes.append(f"{found} of {num_classes} classes have a folder")
    order = range(found) if places is None else places
    labels = [order[index] for index, files in enumerate(by_class) for _ in files]
    numbers = _numbers(subfolders) if places is None else None
    return ImageListing(paths, labels, numbers, _joined(*notes))


def _places(subfolders: list[Path], class_names: Sequence[str]) -> list[int] | None:
    """The logit of each folder; None where one is called like no class."""
    places = _stated_places(subfolders, class_names)
    found = [place for place in places if place is not None]
    return found if len(found) == len(set(found)) == len(places) > 0 else None


def _stated_places(subfolders: list[Path], class_names: Sequence[str]) -> list[int | None]:
    known = {name.casefold(): index for index, name in enumerate(class_names)}
    return [known.get(folder.name.casefold()) for folder in subfolders]


def _untold(subfolders: list[Path], num_classes: int, class_names: Sequence[str]) -> str:
    """Why the order of folders that are not taken by their names tells no labels, or nothing."""
    found = len(subfolders)
    if found < num_classes:
        return f"{found} class folders for {num_classes} logits tell no labels"
    places = _stated_places(subfolders, class_names)
    if any(place not in (None, index) for index, place in enumerate(places)):
        return "sorted as text they are not in the order of the classes that the model file states"
    return ""


def _unknown(subfolders: list[Path], class_names: Sequence[str]) -> str:
    """What keeps some folders from being taken by name; empty where none is named like a class."""
    known = {name.casefold() for name in class_names}
    unknown = [folder.name for folder in subfolders if folder.name.casefold() not in known]
    if len(unknown) == len(subfolders) or not unknown:
        return ""
    named = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
    return f"the model file states no class called {named}: folders are not taken by their names"


def _numbers(subfolders: list[Path]) -> list[int] | None:
    names = [folder.name for folder in subfolders]
    if not all(name.isascii() and name.isdecimal() for name in names):
        return None
    numbers, places = [int(name) for name in names], list(range(len(names)))
    return numbers if numbers != places == sorted(numbers) else None


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
    if _hidden(path) or Image.registered_extensions().get(path.suffix.lower()) not in FORMATS:
        return False
    # A link to nothing is an image that cannot be read, and counted with these.
    return os.path.isfile(path) or not os.path.exists(path)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"
