"""timm's ``config.json`` beside weights, of today and as it was, and what is not one."""

import json
from pathlib import Path
from typing import Any

import pytest

from lrq_deploy.checkpoint.hub_config import read_hub_config
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit

KNOWN = {"input_size": [3, 192, 192], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 1]}


def _beside(folder: Path, content: object) -> Path:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "config.json").write_bytes(raw)
    return folder / "model.safetensors"


@pytest.mark.parametrize("nested", [True, False], ids=["pretrained_cfg", "at the top"])
def test_both_forms_are_read(tmp_path: Path, nested: bool) -> None:
    told: dict[str, Any] = {"pretrained_cfg": KNOWN} if nested else KNOWN
    found = read_hub_config(_beside(tmp_path, {"architecture": "resnet18.a1_in1k", **told}))
    assert found is not None
    assert found.architecture == "resnet18"
    assert {key: found.known()[key] for key in KNOWN} == KNOWN


@pytest.mark.parametrize(
    "content",
    [
        {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"},
        {"architecture": 3},
        {"architecture": "my own net"},
        {"architecture": "resnet18", "pretrained_cfg": [1]},
        ["architecture"],
        b"{",
        b"\xff\xfe",
        b"[" * 10**6,
        b'{"architecture": "resnet18", "x": "' + b"x" * 2**22 + b'"}',
    ],
    ids=["transformers", "number", "no name", "list", "array", "cut", "bytes", "deep", "large"],
)
def test_what_is_another_programs_is_passed_over(tmp_path: Path, content: object) -> None:
    assert read_hub_config(_beside(tmp_path, content)) is None


@pytest.mark.parametrize("nested", [True, False], ids=["pretrained_cfg", "at the top"])
def test_names_of_classes_are_read(tmp_path: Path, nested: bool) -> None:
    named = {"label_names": ["owl", "bee"]}
    told: dict[str, Any] = {"pretrained_cfg": KNOWN | named} if nested else KNOWN | named
    found = read_hub_config(_beside(tmp_path, {"architecture": "resnet18", **told}))
    assert found is not None
    assert found.class_names == ("owl", "bee")


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert read_hub_config(tmp_path / "model.safetensors") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [0.5, "0.5", 0.5]),
        ("mean", [float("nan")]),
        ("mean", []),
        ("mean", 0.5),
        ("std", [0.2, 0.0, 0.2]),
        ("std", [True]),
        ("input_size", [3, 224]),
        ("input_size", [3, -1, 224]),
        ("input_size", [3, 224.5, 224]),
        ("input_size", [True, 224, 224]),
        ("input_size", [100_000, 64, 64]),
        ("std", [10**400]),
        ("crop_pct", "0.9x"),
        ("crop_pct", 0),
        ("crop_pct", float("inf")),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, key: str, value: object) -> None:
    path = _beside(tmp_path, {"architecture": "resnet18", "pretrained_cfg": {key: value}})
    found = read_hub_config(path)
    assert found is not None
    with pytest.raises(CheckpointError) as caught:
        found.known()
    assert caught.value.rule.startswith(f"{key} of a config.json beside the weights must be")
    assert str(tmp_path) in caught.value.received


@pytest.mark.parametrize("std", [None, [0.5]])
def test_mean_and_std_belong_together(tmp_path: Path, std: list[float] | None) -> None:
    known = {"mean": [0.5, 0.5, 0.5], "std": std}
    path = _beside(tmp_path, {"architecture": "resnet18", "pretrained_cfg": known})
    found = read_hub_config(path)
    assert found is not None
    with pytest.raises(CheckpointError, match="as many values"):
        found.known()
