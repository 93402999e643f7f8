"""Files that appear whole: with the mode of any new file, and nothing beside them."""

import os
import stat
from pathlib import Path

import pytest
from support.small_disk import largest_file

from lrq_deploy.durable import write_atomically

pytestmark = pytest.mark.unit


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for data in (b"first", b""):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"first")
    with largest_file(4096), pytest.raises(OSError, match="too large"):
        write_atomically(path, bytes(10_000))
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a.json", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_content_and_name_are_synced_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, (tmp_path / "a.json").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(tmp_path / "a.json", b"x")
    assert seen == [("file", False), ("folder", True)]
