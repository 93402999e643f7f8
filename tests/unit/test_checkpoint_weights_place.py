"""Where the weights lie in a checkpoint, and what is said where several sets do."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import equal_tensors, prefixed, small_weights
from torch import Tensor

from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.checkpoint.weights_place import place_of_weights
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("key", ["model_weights", "best_model", "Model"])
def test_one_set_of_weights_is_found_under_any_key(tmp_path: Path, key: str) -> None:
    path = tmp_path / "model.pt"
    metrics = {"accuracy": torch.tensor(0.9)}
    moments = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({key: small_weights(), "metrics": metrics, "optim": moments, "epoch": 3}, path)
    found = read_state_dict(path)
    assert equal_tensors(found.tensors, small_weights())
    assert found.origin.endswith(f" under {key}")
    assert inspect_model(path).outline.location == key


@pytest.mark.parametrize("inside", [False, True], ids=["top", "inside"])
def test_parts_of_a_network_are_saved_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    parts = {"encoder": small_weights(), "classifier": small_weights()}
    torch.save({"nets": parts, "epoch": 3} if inside else parts, path)
    for read in (read_state_dict, inspect_model):
        with pytest.raises(CheckpointError, match="one set of weights") as caught:
            read(path)
        exec(f"import torch; {caught.value.remedy.partition('save them together: ')[2]}", {})
        together = {f"{part}.{name}": t for part, w in parts.items() for name, t in w.items()}
        assert equal_tensors(read_state_dict(tmp_path / "weights.pt").tensors, together)
    torch.save({"a": parts["encoder"], "b": {"c": parts["classifier"]}}, path)
    with pytest.raises(CheckpointError, match="one set of weights") as caught:
        read_state_dict(path)
    assert "together" not in caught.value.remedy


def test_a_loss_for_each_image_of_a_large_set_is_no_astronomical_mapping(tmp_path: Path) -> None:
    content = {"state_dict": small_weights(), "losses": dict.fromkeys(range(1_281_167), 0.5)}
    is_tensor = torch.is_tensor
    keys = place_of_weights(content, tmp_path / "model.pt", lambda _: False, is_tensor, plain=True)
    assert keys == ("state_dict",)


@pytest.mark.parametrize(
    "lone", [{"best_acc": torch.tensor(71.2)}, {"rng": torch.get_rng_state()}], ids=["acc", "rng"]
)
@pytest.mark.parametrize("inside", [False, True], ids=["top", "inside"])
def test_lone_tensors_hide_no_weights(
    tmp_path: Path, lone: dict[str, Tensor], inside: bool
) -> None:
    path = tmp_path / "model.pt"
    content: dict[str, Any] = {
        "epoch": 3,
        **lone,
        "resnet": small_weights(),
        "optimizer": {},
    }
    torch.save({"run": content} if inside else content, path)
    found = read_state_dict(path)
    assert equal_tensors(found.tensors, small_weights())
    place = "run.resnet" if inside else "resnet"
    assert found.origin.endswith(f" under {place}")
    assert inspect_model(path).outline.location == place
    torch.save({**lone, "student": small_weights(), "teacher": small_weights()}, path)
    for read in (read_state_dict, inspect_model):
        with pytest.raises(CheckpointError, match="with 2: student, teacher"):
            read(path)


def test_tensors_without_weights_elsewhere_are_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    kernels = {"conv.kernel": torch.ones(4, 3), "fc.kernel": torch.ones(5, 4)}
    torch.save({**kernels, "metrics": {"accuracy": torch.tensor(0.9)}}, path)
    assert equal_tensors(read_state_dict(path).tensors, kernels)
    assert inspect_model(path).outline.location == ""


def test_what_a_profiler_left_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    costs = {"total_ops": torch.zeros(1), "module.fc.total_params": torch.zeros(1)}
    torch.save(prefixed("module.") | costs, path)
    assert equal_tensors(read_state_dict(path).tensors, small_weights())
    assert inspect_model(path).parameters == sum(
        t.numel() for n, t in small_weights().items() if n.endswith("weight")
    )


def test_several_sets_of_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"student": small_weights(), "teacher": {"net": small_weights()}}, path)
    for read in (read_state_dict, inspect_model):
        with pytest.raises(
            CheckpointError, match=r"with 2: student, teacher\.net; .*True\)\['student'\]"
        ):
            read(path)


def test_saving_one_of_several_sets_works_where_the_file_holds_more_than_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    args = argparse.Namespace(lr=0.1)
    torch.save(
        {
            "student": small_weights(),
            "teacher": {"net": small_weights()},
            "args": args,
        },
        path,
    )
    for read in (read_state_dict, inspect_model):
        with pytest.raises(CheckpointError, match="one set of weights") as caught:
            read(path)
        alone = caught.value.remedy.partition("for instance with ")[2].partition("; or")[0]
        exec(f"import torch; {alone}", {})
        assert equal_tensors(read_state_dict(tmp_path / "weights.pt").tensors, small_weights())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.zeros(3), "one tensor instead of a mapping"),
        ([1, 2], "one list instead of a mapping"),
        ({"a\x1b[31m": 1, "b": {"c": 2}}, "a mapping of 2 keys without tensors (a?[31m, b)"),
        ({}, "a mapping of 0 keys without tensors (no names)"),
    ],
)
def test_both_readers_say_alike_what_holds_no_weights(
    tmp_path: Path, content: object, said: str
) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    for read in (read_state_dict, inspect_model):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.received == f"{path} with {said}"
