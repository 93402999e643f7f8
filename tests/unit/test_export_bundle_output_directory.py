"""A published folder: whole, with the mode of any new one, nothing beside it."""

import os
import stat
from pathlib import Path

import pytest
from support.small_disk import largest_file

from lrq_deploy.errors import OutputError, WriteError
from lrq_deploy.export.bundle.output_directory import _swap, check_output, publish

pytestmark = pytest.mark.unit


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_others_may_read_it_as_any_new_folder(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        publish(tmp_path / "out", {"a": b"1"}, force=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


def test_a_full_disk_is_no_bad_input_and_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(4096), pytest.raises(WriteError, match="nothing was left behind"):
        publish(tmp_path / "out", {"a": b"1", "b": bytes(10_000)}, force=False)
    assert list(tmp_path.iterdir()) == []


def test_all_files_are_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        synced.append((kind, (tmp_path / "out").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    publish(tmp_path / "out", {"a": b"1", "b": b"2"}, force=False)
    unnamed = [("file", False), ("file", False), ("folder", False)]
    assert synced == [*unnamed, ("folder", True)]


def test_a_folder_that_could_not_be_replaced_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"before")
    with pytest.raises(FileNotFoundError):
        _swap(tmp_path / "missing.partial", out)
    assert (out / "a").read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("behind", [1, 2])
def test_an_interrupt_while_a_folder_is_replaced_leaves_one_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    out, partial, rename = tmp_path / "out", tmp_path / "new.partial", os.rename
    out.mkdir()
    partial.mkdir()
    (partial / "a").write_bytes(b"new")
    renamed = []

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        renamed.append(target)
        if len(renamed) == behind:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _swap(partial, out)
    assert out.is_dir()
    assert (out / "a").exists() == (behind == 2)


def test_what_a_killed_run_left_goes_once_there_is_a_new_bundle(tmp_path: Path) -> None:
    out, digits = tmp_path / "out", "0123456789abcdef"
    mine = [".out.partial", ".outer.0123456789abcdef.old", "out.0123456789abcdef.old", ".out.x.old"]
    for name in (*mine, f".out.{digits}.partial", f".out.{digits}.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"")
    with largest_file(4096), pytest.raises(WriteError):
        publish(out, {"a": bytes(10_000)}, force=False)
    assert (tmp_path / f".out.{digits}.old" / "model.onnx").exists()
    publish(out, {"a": b""}, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, "out"])


@pytest.mark.parametrize("out", [".", "below/..", "{here}"])
def test_the_current_folder_is_not_replaced(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="current folder"):
        check_output(Path(out.format(here=tmp_path / "here")), force=True)


def test_what_ends_in_two_dots_is_not_replaced_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(OutputError, match=r"end in '\.\.'"):
        check_output(tmp_path / "below" / "..", force=True)


def test_a_folder_that_is_there_is_replaced_in_its_parent_which_must_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "closed" / "out"
    out.mkdir(parents=True)
    check_output(out, force=False)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != out.parent and access(path, mode))
    with pytest.raises(OutputError, match="can be written"):
        check_output(out, force=False)


@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_and_the_folder_it_names_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large disk" / "bundle")
    if there:
        (tmp_path / "large disk" / "bundle").mkdir()
    check_output(tmp_path / "out", force=False)
    publish(tmp_path / "out", {"a": b"1"}, force=False)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert (tmp_path / "out").is_symlink()
    assert [name for name in names if not name.startswith("out/")] == [
        "large disk",
        "large disk/bundle",
        "large disk/bundle/a",
        "out",
    ]


@pytest.mark.parametrize("length", [240, 300])
def test_a_name_that_is_too_long_for_what_is_written_is_refused(
    tmp_path: Path, length: int
) -> None:
    with pytest.raises(OutputError, match="--out must have a name that the disk takes"):
        check_output(tmp_path / ("o" * length), force=False)


@pytest.mark.skipif(os.name != "posix", reason="the root of POSIX")
def test_the_root_is_refused_as_any_full_folder() -> None:
    with pytest.raises(OutputError):
        check_output(Path("/"), force=False)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a system without /proc")
def test_a_place_that_takes_no_folder_from_anybody_is_refused() -> None:
    with pytest.raises(OutputError, match=r"can be written; got /proc"):
        check_output(Path("/proc/out"), force=False)
