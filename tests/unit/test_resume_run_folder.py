"""The folder of a run: what a run wrote goes, what it did not write stays."""

import errno
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from lrq_deploy.errors import OptionError, OutputError, StateFileError
from lrq_deploy.resume.control import RunControl
from lrq_deploy.resume.run_folder import RunFolder
from lrq_deploy.resume.stage_store import StageStore

pytestmark = pytest.mark.unit

IDENTITY = {"seed": 0}
KEY = "0123456789abcdef" * 4
UNFINISHED = (
    ".run.json.0123456789abcdef.partial",
    ".student-00000007.0123456789abcdef.partial",
    ".student-00000007.k3_x9qza.partial",
    f".images-{KEY[:32]}.0123456789abcdef.partial",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resnet.run"


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def begun(path: Path) -> RunFolder:
    """A run that was stopped with every kind of file in its folder."""
    folder = RunFolder(path, RunControl())
    folder.begin(IDENTITY)
    folder.close()
    folder.keep("student", 7, {"step": 7})
    StageStore(path).add("images", KEY, {"seconds": 1.0})
    for name in ("images.pool", *UNFINISHED):
        (path / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "best.pt",
        "my-run.json",
        "student-7.pt",
        "student-00000007.pt",
        "student-00000007-0123456789abcdef.pth",
        "my-student-00000007-0123456789abcdef.pt",
        "download.partial",
        ".best.pt.0123456789abcdef.partial",
        "my.images.pool",
        "old-run.lock",
    ],
)
def test_files_of_the_user_are_neither_taken_over_nor_deleted(
    path: Path, name: str, force: bool
) -> None:
    path.mkdir()
    (path / name).write_bytes(b"precious")
    folder = RunFolder(path, RunControl())
    with pytest.raises(OutputError, match="must be free") as caught:
        folder.check(force)
    assert name in caught.value.received
    # Nor where it comes while the run goes on.
    begun(path)
    begun(path).remove()
    assert names(path) == [name]
    assert (path / name).read_bytes() == b"precious"


def test_a_folder_of_the_users_that_is_called_like_ours_stays(path: Path) -> None:
    (path / "images.pool").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"images\.pool in it"):
        RunFolder(path, RunControl()).check(force=True)


def test_a_stopped_run_is_known_and_goes_as_a_whole(path: Path) -> None:
    folder = begun(path)
    assert len(names(path)) == 9
    with pytest.raises(OutputError, match="continued or given up"):
        folder.check(force=False)
    folder.check(force=True)
    folder.remove()
    assert not path.exists()


def test_a_stage_that_began_anew_is_continued_from_there(path: Path) -> None:
    folder = begun(path)
    for step in (8, 9, 2, 9, 10, 11):
        folder.keep("student", step, {"step": step})
        newest = folder.kept("student").state
        assert newest == {"step": step}
    assert [name[:16] for name in names(path) if "student" in name and name[0] != "."] == [
        "student-00000010",
        "student-00000011",
    ]


def test_a_state_that_cannot_be_read_is_told_and_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    folder = begun(path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        with pytest.raises(StateFileError, match=r"Input/output error in .*student-00000007"):
            folder.kept("student")
    assert folder.kept("student").state == {"step": 7}


def test_a_link_to_a_place_with_more_room_stays(path: Path) -> None:
    room = path.with_name("room")
    room.mkdir()
    path.symlink_to(room)
    begun(path).remove()
    assert names(path) == []
    assert path.readlink() == room


def test_what_a_run_left_without_its_identity_may_go(path: Path) -> None:
    begun(path)
    (path / "run.json").unlink()
    folder = RunFolder(path, RunControl())
    folder.check(force=False)
    folder.begin(IDENTITY)
    folder.close()
    assert names(path) == ["run.json", "run.lock"]


def test_a_continued_run_drops_what_is_unfinished_alone(path: Path) -> None:
    begun(path)
    continued = RunFolder(path, RunControl(resume=True))
    continued.check(force=False)
    continued.begin(IDENTITY)
    continued.close()
    assert len(names(path)) == 5
    assert continued.kept("student").state == {"step": 7}


def test_another_device_is_refused_by_its_name(path: Path) -> None:
    with closing(RunFolder(path, RunControl())) as first:
        first.begin({**IDENTITY, "device": "cuda"})
    with (
        closing(RunFolder(path, RunControl(resume=True))) as second,
        pytest.raises(OptionError) as caught,
    ):
        second.begin({**IDENTITY, "device": "cpu"})
    assert caught.value.received == "device cpu instead of cuda"
