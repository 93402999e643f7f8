"""Where a process stands in its job, from what a launcher sets."""

import pytest

from lrq_deploy.errors import OptionError
from lrq_deploy.launch import Launch, launch, refuse_several, speaker, told_beside

pytestmark = pytest.mark.unit

SET = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "here",
    "MASTER_PORT": "29500",
}


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    assert launch() == Launch(rank=0, count=1, local_rank=0, local_count=1)
    assert launch().first
    assert speaker() == ""
    assert not told_beside()


def test_a_launcher_gives_a_process_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert launch() == Launch(rank=3, count=4, local_rank=1, local_count=2)
    assert not launch().first
    assert speaker() == "rank 3"
    assert told_beside()
    # The first one of another machine.
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not told_beside()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", None),
        ("LOCAL_RANK", "x"),
        ("MASTER_ADDR", None),
        ("MASTER_PORT", None),
        ("WORLD_SIZE", "0"),
        ("RANK", "4"),
        ("LOCAL_RANK", "2"),
    ],
)
def test_half_a_launcher_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    for known, there in SET.items():
        monkeypatch.setenv(known, there)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"{name}={value or 'unset'}.*torchrun"):
        launch()


def test_work_that_is_not_shared_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    refuse_several("plan")
    monkeypatch.setenv("WORLD_SIZE", "4")
    refuse_several("plan")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(OptionError, match="plan runs in one process") as raised:
        refuse_several("plan")
    assert raised.value.received == "a launcher with WORLD_SIZE=4"
