"""Folders in place of a file: which of their files holds the weights."""

import json
from pathlib import Path

import pytest

from lrq_deploy.checkpoint.weights_folder import weights_file
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_the_only_file_of_weights_is_taken(tmp_path: Path) -> None:
    filled(tmp_path, "README.md", "config.json", "model.safetensors", "._model.safetensors")
    assert weights_file(tmp_path) == tmp_path / "model.safetensors"
    for other in (tmp_path / "model.safetensors", tmp_path / "missing.pt"):
        assert weights_file(other) == other


def test_several_are_named(tmp_path: Path) -> None:
    filled(tmp_path, "pytorch_model.bin", "model.safetensors", "config.json")
    with pytest.raises(CheckpointError, match="the directory") as caught:
        weights_file(tmp_path)
    assert "with model.safetensors, pytorch_model.bin" in caught.value.received
    named = tmp_path / "model.safetensors"
    assert caught.value.remedy == f"pass a file inside it, for instance {named}"


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="with none"):
        weights_file(filled(tmp_path, "README.md"))


def test_weights_in_shards_are_refused_by_any_of_their_paths(tmp_path: Path) -> None:
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    index = filled(tmp_path, *shards) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}))
    for path in (tmp_path, index, tmp_path / shards[0]):
        with pytest.raises(CheckpointError, match=r"in 2 files by model\.safetensors\.index\.json"):
            weights_file(path)
    index.unlink()
    assert weights_file(tmp_path / shards[0]) == tmp_path / shards[0]


def test_the_only_part_of_one_is_whole(tmp_path: Path) -> None:
    whole = filled(tmp_path, "model-00001-of-00001.safetensors", "model.safetensors.index.json")
    for path in (whole, whole / "model-00001-of-00001.safetensors"):
        assert weights_file(path) == whole / "model-00001-of-00001.safetensors"


def test_of_several_indexes_the_first_by_name_is_told(tmp_path: Path) -> None:
    filled(tmp_path, "b.index.json", "c.index.json", "a.index.json", "d-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match=r"by a\.index\.json"):
        weights_file(tmp_path / "d-00001-of-00002.bin")
