"""Results in a folder: refused before the work, written whole after it."""

from pathlib import Path

import pytest

from lrq_deploy.cli.result_files import check_folder, write_files
from lrq_deploy.errors import OutputError

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
    with pytest.raises(OutputError, match="a folder that can be written"):
        check_folder(tmp_path / "file" / "sub", ["a"], force=True)
    with pytest.raises(OutputError, match="completely"):
        write_files(tmp_path / "file", {"a": b""})
