"""transformers' ``config.json`` beside weights, and what is not one."""

import json
from pathlib import Path

import pytest

from lrq_deploy.checkpoint.transformers_config import read_transformers_config, task_beside

pytestmark = pytest.mark.unit

CONFIG = {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}


def _beside(folder: Path, content: object) -> Path:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "name", ["ResNetForImageClassification", "LevitForImageClassificationWithTeacher"]
)
def test_the_class_of_the_network_is_read(tmp_path: Path, name: str) -> None:
    found = read_transformers_config(_beside(tmp_path, CONFIG | {"architectures": [name]}))
    assert found is not None
    assert (found.network, found.path) == (name, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("problem", "task"),
    [
        ("single_label_classification", "multiclass"),
        ("multi_label_classification", "multilabel"),
        ("regression", None),
        (None, None),
        (["multi_label_classification"], None),
    ],
)
def test_what_the_logits_mean_is_read(tmp_path: Path, problem: object, task: str | None) -> None:
    found = read_transformers_config(_beside(tmp_path, CONFIG | {"problem_type": problem}))
    assert found is not None
    assert found.task == task


def test_what_the_logits_mean_is_not_taken_for_another_network(tmp_path: Path) -> None:
    weights = _beside(tmp_path, CONFIG | {"problem_type": "multi_label_classification"})
    weights.touch()
    assert task_beside(weights, None) == task_beside(tmp_path, None) == "multilabel"
    assert task_beside(weights, "torchvision:resnet18") == "multiclass"
    (tmp_path / "config.json").unlink()
    assert task_beside(weights, None) == "multiclass"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "owl", "1": "bee"}, ("owl", "bee")),
        ({"0": "LABEL_0", "1": "LABEL_1"}, ()),
        (None, ()),
    ],
)
def test_names_of_classes_are_read(tmp_path: Path, labels: object, names: tuple[str, ...]) -> None:
    found = read_transformers_config(_beside(tmp_path, CONFIG | {"id2label": labels}))
    assert found is not None
    assert found.class_names == names


@pytest.mark.parametrize(
    ("stated", "processor", "sized"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"image_size": 32}, False, True),
        ({"image_size": [32, 32]}, False, False),
        ({"image_size": 32, "num_channels": 1}, False, False),
    ],
)
def test_whether_the_size_of_the_images_is_told(
    tmp_path: Path, stated: dict[str, object], processor: bool, sized: bool
) -> None:
    if processor:
        (tmp_path / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    found = read_transformers_config(_beside(tmp_path, CONFIG | stated))
    assert found is not None
    assert found.sized == sized


@pytest.mark.parametrize(
    "content",
    [
        CONFIG | {"architectures": ["BertForSequenceClassification"]},
        CONFIG | {"architectures": []},
        CONFIG | {"architectures": "ResNetForImageClassification"},
        CONFIG | {"architectures": ["os.system ForImageClassification"]},
        {"architectures": CONFIG["architectures"]},
        CONFIG | {"architecture": "resnet18"},
        [CONFIG],
    ],
    ids=["text", "none", "no list", "no name", "no type", "timm", "array"],
)
def test_what_is_another_programs_is_passed_over(tmp_path: Path, content: object) -> None:
    assert read_transformers_config(_beside(tmp_path, content)) is None


def test_a_folder_without_one(tmp_path: Path) -> None:
    assert read_transformers_config(tmp_path / "model.safetensors") is None
