"""The index of known architectures: kept, found again, and never in the way."""

import json
import os
from pathlib import Path

import pytest
from support.architecture_index import keep_indexes, some_of_timm, torchvision_index

from lrq_deploy.inspection.index import Index, cache_directory, open_index

pytestmark = pytest.mark.unit


def _no_families() -> dict[str, list[str]]:
    raise AssertionError("an intact index must not be listed again")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.*"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keep_indexes(tmp_path, monkeypatch)
    return tmp_path / "lrq-deploy"


def test_what_is_saved_is_found_again(kept: Path) -> None:
    assert open_index("torchvision", _no_families) == torchvision_index()
    assert open_index("timm", _no_families) == some_of_timm()
    names = [path.name for path in _files(kept)]
    assert names == [
        f"architectures-{index.library}-{index.version}.json"
        for index in (some_of_timm(), torchvision_index())
    ]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b"[" * 100_000,
        b'{"schema_version": 1, "library": "timm", "version": "0", "families": {}}',
    ],
)
def test_a_damaged_file_is_built_again(kept: Path, damage: bytes) -> None:
    path = next(kept.glob("*timm*"))
    path.write_bytes(damage)
    found = open_index("timm", lambda: {"f": ["resnet10t"]})
    assert found == Index("timm", some_of_timm().version, {"f": ["resnet10t"]})
    assert found.add_entries(["f"])
    found.save()
    assert open_index("timm", _no_families) == found


@pytest.mark.parametrize("key", ["families", "templates", "entries", "version", "schema_version"])
def test_any_part_of_another_type_is_damage(kept: Path, key: str) -> None:
    path = next(kept.glob("*torchvision*"))
    document = json.loads(path.read_bytes())
    document[key] = {"all": [1]}
    path.write_text(json.dumps(document), encoding="utf-8")
    found = open_index("torchvision", lambda: {"all": []})
    assert found is not None
    assert found.families == {"all": []}


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    some_of_timm().save()
    assert open_index("timm", lambda: {"f": []}) == Index("timm", some_of_timm().version, {"f": []})


def test_the_directory_follows_the_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen, wanted in (
        (str(tmp_path / "cache"), tmp_path / "cache"),
        ("relative", tmp_path / ".cache"),
        ("", tmp_path / ".cache"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
        assert cache_directory() == wanted / "lrq-deploy"
    assert os.environ["HOME"] == str(tmp_path)


def test_a_library_that_is_not_installed_has_no_index() -> None:
    assert open_index("no-such-library-anywhere", _no_families) is None


def test_nothing_is_built_twice() -> None:
    index = Index("timm", "0", {"f": ["resnet10t"]})
    assert index.add_entries(["f"])
    assert not index.add_entries(["f"])
    assert [entry.name for entry in index.entries["f"]] == ["resnet10t"]
