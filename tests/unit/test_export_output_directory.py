"""A published folder: whole, with the mode of any new one, nothing beside it."""

import os
import stat
from pathlib import Path

import pytest
from support.small_disk import largest_file

from lrq_deploy.errors import WriteError
from lrq_deploy.export.output_directory import publish

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
