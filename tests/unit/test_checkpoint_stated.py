"""Names that a training script saved beside the weights, read by torch and by stand-ins alike."""

import argparse
import types
from pathlib import Path

import pytest
import torch

from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.checkpoint.stated import plain_name, stated_architectures
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit

WEIGHTS = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("beside", "names"),
    [
        ({"arch": "resnet18"}, ("resnet18",)),
        ({"args": argparse.Namespace(lr=0.1, model="tf_lite0")}, ("tf_lite0",)),
        ({"args": types.SimpleNamespace(arch="resnet50d")}, ("resnet50d",)),
        ({"hyper_parameters": {"model_name": "timm/resnet50.a1_in1k"}}, ("resnet50",)),
        ({"arch": "resnet18", "config": {"architecture": "resnet18"}}, ("resnet18",)),
        ({"arch": "vgg16", "args": argparse.Namespace(model="vgg19")}, ("vgg16", "vgg19")),
        ({"meta": {"arch": "resnet18"}}, ("resnet18",)),
        ({"arch": ["resnet18"], "model": 3, "args": 7}, ()),
        ({"arch": "it\x1b[31m", "architecture": "x" * 200, "model": "a b"}, ()),
    ],
)
def test_both_readers_find_the_names(
    tmp_path: Path, beside: dict[str, object], names: tuple[str, ...]
) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": WEIGHTS, **beside}, path)
    stated = read_state_dict(path).stated
    assert stated == inspect_model(path).outline.stated
    assert stated == names


def test_a_trusted_pickle_states_them_too(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    args = argparse.Namespace(model="resnet18", extra=torch.nn.ReLU())
    torch.save({"state_dict": WEIGHTS, "args": args}, path)
    assert read_state_dict(path, trust_pickle=True).stated == ("resnet18",)


class Options:
    """Of a training script."""

    def __init__(self) -> None:
        self.arch = "resnet18"


def test_options_of_any_class_state_them_to_both_readers(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"state_dict": WEIGHTS, "config": Options()}, path)
    assert read_state_dict(path, trust_pickle=True).stated == ("resnet18",)
    assert inspect_model(path).outline.stated == ("resnet18",)


def test_weights_alone_state_nothing() -> None:
    assert stated_architectures(WEIGHTS) == ()
    assert stated_architectures(None) == ()


def test_what_is_no_name_is_passed_over() -> None:
    found = [plain_name(text) for text in ("", "hub:x", "../..", "9x", " vgg16_bn ")]
    assert found == ["", "", "", "", "vgg16_bn"]
