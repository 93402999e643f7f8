"""Which files of a folder are images, and labels by the names of its subfolders."""

import os
from pathlib import Path

import pytest
import torch
from support.image_files import write_png

from lrq_deploy.errors import ImageError
from lrq_deploy.image_listing import FolderOption
from lrq_deploy.images import read_image_folder
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

RGB_8 = (3, 8, 8)
IDENTITY_RGB = Preprocessing((0.0,) * 3, (1.0,) * 3)


def test_class_folders_become_labels_in_sorted_order(tmp_path: Path) -> None:
    for index, name in enumerate(["cat", "ant", "bee"]):
        write_png(tmp_path / name / "0.png", index)
    write_png(tmp_path / "bee" / "1.png", 7)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=3)
    assert found.numbers is None
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1, 2]
    assert found.labels.dtype == torch.int64
    assert len(found) == 4
    assert found.note == ""
    pairs = list(found.labelled_batches(3))
    assert [len(batch) for batch, _ in pairs] == [3, 1]
    assert [labels.tolist() for _, labels in pairs if labels is not None] == [[0, 1, 1], [2]]


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ({"cat": 2, "bee": 0, "ant": 1}, "class folders are taken by their names, which"),
        ({"CAT": 2, "bee": 0, "Ant": 1}, "class folders are taken by their names, which"),
        ({"cat": 2, "bee": 0}, "which the model file states; 2 of 3 classes have a folder"),
        ({"ant": 1}, "which the model file states; 1 of 3 classes have a folder"),
        ({"bee": 0}, "1 of 3 classes have a folder"),
        ({"ant": None, "bee": None, "dog": None}, "no class called dog: folders are not taken by"),
        ({"ant": None, "bee": None, "dog": None}, "by their names; sorted as text they are not in"),
        ({"Cat": None, "ant": None, "cat": None}, "sorted as text they are not in the order of"),
        ({"a": 0, "ant": 1, "dog": 2}, "states no class called a, dog: folders are not taken by"),
        ({"cat": None, "dog": None}, "taken by their names; 2 class folders for 3 logits tell no"),
        ({"0": 0, "1": 1, "2": 2}, ""),
    ],
)
def test_folders_called_like_classes_are_those(
    tmp_path: Path, labels: dict[str, int | None], note: str
) -> None:
    for index, name in enumerate(labels):
        write_png(tmp_path / name / "0.png", index)
    names = ("bee", "ant", "cat")
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 3, class_names=names)
    given = [None] * len(found) if found.labels is None else found.labels.tolist()
    assert dict(zip((p.parent.name for p in found.paths), given, strict=True)) == labels
    assert note in found.note
    assert bool(found.note) == bool(note)


def test_folders_in_the_order_of_their_names_need_no_remark(tmp_path: Path) -> None:
    names = [str(n) for n in range(12)]
    for index, name in enumerate(names):
        write_png(tmp_path / name / "0.png", index)
    as_sorted = sorted(names)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 12, class_names=as_sorted)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(12))
    assert (found.numbers, found.note) == (None, "")


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        ([str(n) for n in range(12)], [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]),
        ([str(n) for n in range(10)], None),
        ([f"{n:02}" for n in range(12)], None),
        ([str(n) for n in range(1, 13)], None),
        (["a", "b"], None),
    ],
    ids=["as text", "ten", "with zeros", "from one", "words"],
)
def test_numbers_of_class_folders_that_text_sorts_otherwise(
    tmp_path: Path, names: list[str], numbers: list[int] | None
) -> None:
    for name in names:
        write_png(tmp_path / name / "0.png", 0)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, len(names)).numbers
    assert (None if found is None else found.tolist()) == numbers


@pytest.mark.parametrize("layout", ["loose", "one subfolder"])
def test_images_without_class_folders_have_no_labels(tmp_path: Path, layout: str) -> None:
    folder = tmp_path if layout == "loose" else tmp_path / "all"
    for index in range(3):
        write_png(folder / f"{index}.png", index)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    assert found.labels is None
    assert [labels for _, labels in found.labelled_batches(2)] == [None, None]
    assert len(found) == 3


def test_a_flat_folder_needs_no_note(tmp_path: Path) -> None:
    write_png(tmp_path / "0.png", 0)
    (tmp_path / "empty").mkdir()
    assert read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 2).remarks() == ()


def test_one_subfolder_tells_no_labels_with_a_note(tmp_path: Path) -> None:
    write_png(tmp_path / "all" / "0.png", 0)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    assert found.remarks() == (
        "one subfolder, all, tells no labels; agreement with the teacher is measured instead",
    )
    assert read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, None).remarks() == ()


@pytest.mark.parametrize("below", ["val", "data/val"])
def test_class_folders_below_one_subfolder_are_named(tmp_path: Path, below: str) -> None:
    for name in "ab":
        write_png(tmp_path / below / name / "0.png", 0)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    assert found.labels is None
    assert found.note.endswith(f"for its 2 class folders pass --images {tmp_path / below}")
    assert read_image_folder(tmp_path / below, RGB_8, IDENTITY_RGB, 2).labels is not None
    # Which would tell no labels either.
    assert "--images" not in read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, 3).note


@pytest.mark.parametrize("num_classes", [2, None])
def test_a_subfolder_beside_images_is_left_out_with_a_note(
    tmp_path: Path, num_classes: int | None
) -> None:
    write_png(tmp_path / "0.png", 0)
    for name in "ab":
        write_png(tmp_path / "val" / name / "0.png", 0)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes)
    assert [path.name for path in found.paths] == ["0.png"]
    assert "images in the subfolder val were left out" in found.note
    assert ("--images" in found.note) == (num_classes == 2)


def test_folders_that_cannot_be_read_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_png(tmp_path / name / "0.png", 0)
    scan = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=3)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2]
    assert found.remarks() == ("1 folders could not be read and were left out",)


def test_folders_that_can_be_listed_and_not_entered_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_png(tmp_path / name / "0.png", 0)
    access = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p).name != "b" and access(p, mode))
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=3)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 2]
    assert found.remarks() == ("1 folders could not be read and were left out",)


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png(tmp_path / "0.png", 0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ImageError, match="--images must name a folder that can be read"):
        read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=3)


def test_a_refusal_names_the_option_that_named_the_folder(tmp_path: Path) -> None:
    option = FolderOption("--photos", "nothing is measured")
    with pytest.raises(ImageError, match="--photos must name") as caught:
        read_image_folder(tmp_path / "no", RGB_8, IDENTITY_RGB, None, option=option)
    assert caught.value.remedy.endswith("leave out --photos; nothing is measured")
    with pytest.raises(ImageError, match="5 channels with --photos"):
        read_image_folder(tmp_path, (5, 8, 8), IDENTITY_RGB, None, option=option)


def test_fewer_class_folders_than_logits_are_unlabelled_with_a_note(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0.png", 0)
    write_png(tmp_path / "b" / "0.png", 1)
    write_png(tmp_path / "loose.png", 2)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=10)
    assert found.labels is None
    assert len(found) == 2
    assert "2 class folders for 10 logits" in found.note
    assert "1 images outside" in found.note


def test_links_to_nothing_are_counted_as_images_that_cannot_be_read(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0.png", 0)
    (tmp_path / "a" / "1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "a" / ("2" * 200 + ".png")).symlink_to("x" * 300)
    found = read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=None)
    assert found.remarks() == ("2 of 3 image files could not be decoded and were skipped",)


def test_more_class_folders_than_logits_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        write_png(tmp_path / name / "0.png", 0)
    with pytest.raises(ImageError, match="at most 2 class folders") as caught:
        read_image_folder(tmp_path, RGB_8, IDENTITY_RGB, num_classes=2)
    assert caught.value.received.startswith("3 in ")


@pytest.mark.parametrize(
    "kind", ["missing", "a name too long", "file", "empty", "no image", "empty classes"]
)
def test_a_folder_without_images_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / ("images" if kind != "a name too long" else "i" * 300)
    if kind == "file":
        folder.write_bytes(b"")
    elif kind not in ("missing", "a name too long"):
        folder.mkdir()
    if kind == "no image":
        (folder / "labels.txt").write_text("0", encoding="utf-8")
    if kind == "empty classes":
        (folder / "a").mkdir()
        (folder / "b").mkdir()
    with pytest.raises(ImageError):
        read_image_folder(folder, RGB_8, IDENTITY_RGB, num_classes=10)
