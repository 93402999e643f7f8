"""Results in a folder: refused before the work, written whole after it."""

from pathlib import Path

import pytest
from support.small_disk import largest_file

from lrq_deploy.cli.result_files import check_folder, write_files
from lrq_deploy.errors import OutputError, WriteError

pytestmark = pytest.mark.unit


def test_written_files_are_kept_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    check_folder(out, ["a", "b"], force=False)
    assert not out.exists()
    write_files(out, {"a": b"1"})
    assert [path.name for path in out.iterdir()] == ["a"]
    with pytest.raises(OutputError, match=r"a in .*folder.*--force"):
        check_folder(out, ["a", "b"], force=False)
    check_folder(out, ["a", "b"], force=True)
    write_files(out, {"a": b"2", "b": b"3"})
    assert (out / "a").read_bytes() == b"2"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a directory that can be written"):
        check_folder(tmp_path / "file" / "sub", ["a"], force=True)
    with pytest.raises(WriteError, match="completely"):
        write_files(tmp_path / "file", {"a": b""})


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--out must have a name that the disk takes"):
        check_folder(tmp_path / ("o" * 300), ["a"], force=False)


@pytest.mark.skipif(not Path("/proc/1").exists(), reason="needs /proc")
def test_a_folder_in_which_nobody_may_write_is_refused_before_the_work() -> None:
    with pytest.raises(OutputError, match="--out must lie in a directory that can be written"):
        check_folder(Path("/proc/1/results"), ["a"], force=False)


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    with largest_file(4096), pytest.raises(WriteError, match="free space"):
        write_files(tmp_path, {"a": b"1", "b": bytes(10_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
