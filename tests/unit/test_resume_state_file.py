"""State files: what goes in comes out, damage is known, a full disk leaves nothing."""

import os
from pathlib import Path

import pytest
import torch
from support.small_disk import largest_file

from lrq_deploy.errors import OutputError, StateFileError, WriteError
from lrq_deploy.resume.state_file import SUFFIX, read_state, write_bytes, write_state

pytestmark = pytest.mark.unit

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
STATE = {
    "weights": WEIGHTS,
    "groups": [{"lr": 0.1, "params": [0, 1]}],
    "name": "generator",
    "nothing": None,
}


@pytest.mark.parametrize("mapped", [False, True])
def test_what_goes_in_comes_out(tmp_path: Path, mapped: bool) -> None:
    path = write_state(tmp_path / "run", "generator", STATE)
    found = read_state(path, mapped)
    assert found["groups"] == STATE["groups"]
    assert (found["name"], found["nothing"]) == ("generator", None)
    assert torch.equal(found["weights"]["a"], WEIGHTS["a"])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_layout_in_memory_is_kept(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    found = read_state(write_state(tmp_path, "x", {"image": image}))
    assert found["image"].stride() == image.stride()


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [flip_a_bit, lambda data: data[:-1], lambda data: b""])
def test_damage_is_known(tmp_path: Path, damage: object) -> None:
    path = write_state(tmp_path, "x", STATE)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(StateFileError, match=path.name):
        read_state(path)


def test_an_absent_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match="No such file"):
        read_state(tmp_path / "x-0123.pt")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    before = write_state(tmp_path, "x", STATE)
    with largest_file(4096), pytest.raises(OutputError, match="free space"):
        write_state(tmp_path, "x", {"large": torch.zeros(100_000)})
    assert list(tmp_path.iterdir()) == [before]
    assert read_state(before)["name"] == "generator"


def test_a_folder_that_cannot_be_made_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_state(tmp_path / "file" / "run", "x", STATE)


def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[bool] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        named.append(any(path.suffix == SUFFIX for path in tmp_path.iterdir()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_state(tmp_path, "x", STATE)
    assert named == [False, True]
    write_bytes(tmp_path / "a.json", b"{}")
    assert len(named) == 4


def test_bytes_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.json"
    write_bytes(path, b"first")
    with largest_file(4096), pytest.raises(WriteError, match="free space"):
        write_bytes(path, bytes(10_000))
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]
