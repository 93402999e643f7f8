"""Networks that are recognised by their weights, where --arch is left out."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.architecture_index import keep_indexes
from support.model_files import logits_of, options_for

from lrq_deploy.errors import CheckpointError, OptionError
from lrq_deploy.loading import load_model
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def test_without_arch_the_one_known_network_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    keep_indexes(tmp_path / "cache", monkeypatch)
    network = torchvision.models.resnet18(num_classes=4).eval()
    named = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": named}, tmp_path / "weights.pt")
    found = load_model(options_for(tmp_path))
    assert (found.name, found.input_shape) == ("resnet18", (3, 224, 224))
    assert found.origin.endswith("under model, recognised as torchvision:resnet18")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits_of(found.program, images), logits_of(network, images))


def test_without_arch_several_or_near_networks_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    timm = pytest.importorskip("timm")
    keep_indexes(tmp_path / "cache", monkeypatch)
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), tmp_path / "weights.pt")
    with pytest.raises(OptionError, match="timm:efficientnet_lite0, timm:tf_efficientnet_lite0"):
        load_model(options_for(tmp_path))
    state = torchvision.models.resnet18().state_dict()
    torch.save(state | {"conv1.weight": torch.ones(64, 3, 3, 3)}, tmp_path / "weights.pt")
    with pytest.raises(OptionError, match=r"conv1\.weight \(file \[64,3,3,3\], resnet18"):
        load_model(options_for(tmp_path))


TWIN = "tf_efficientnet_lite0"


@pytest.mark.parametrize("where", ["checkpoint", "config.json"])
def test_without_arch_the_twin_that_was_trained_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    timm = pytest.importorskip("timm")
    keep_indexes(tmp_path / "cache", monkeypatch)
    network = timm.create_model(TWIN, num_classes=5).eval()
    content: dict[str, Any] = {"state_dict": network.state_dict()}
    if where == "checkpoint":
        content["args"] = argparse.Namespace(model=TWIN)
    else:
        known = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 192, 160]}
        known |= {"crop_pct": 0.8, "interpolation": "bilinear"}
        told = {"architecture": TWIN, "pretrained_cfg": known}
        (tmp_path / "config.json").write_text(json.dumps(told))
    torch.save(content, tmp_path / "weights.pt")
    found = load_model(options_for(tmp_path))
    assert f"recognised as timm:{TWIN}" in found.origin
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(logits_of(found.program, images), logits_of(network, images))
    if where == "checkpoint":
        assert (found.input_shape, found.preprocessing.resize) == ((3, 224, 224), 256)
        return
    assert found.origin.endswith(", with the config.json beside it")
    assert found.input_shape == (3, 192, 160)
    as_told = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), True, 200, "bilinear")
    assert found.preprocessing == as_told
    # Options stand above it, and it says nothing of another network.
    given = load_model(options_for(tmp_path, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert given.preprocessing == dataclasses.replace(as_told, mean=(0.0,) * 3, std=(1.0,) * 3)
    told["pretrained_cfg"] = {"mean": "auto"}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"mean of a config\.json"):
        load_model(options_for(tmp_path))
    other = load_model(options_for(tmp_path, arch="timm:efficientnet_lite0"))
    assert (other.input_shape, other.preprocessing.interpolation) == ((3, 224, 224), "bicubic")


def test_without_arch_the_error_gives_the_advice_of_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    keep_indexes(tmp_path / "cache", monkeypatch)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state | {"loss.w": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(OptionError, match=r"outside of it: 1 \(loss\.w\)") as caught:
        load_model(options_for(tmp_path))
    assert caught.value.remedy.startswith("save the network alone (import torch; ")
    assert caught.value.remedy.endswith("weights-weights.pt with --arch torchvision:resnet18")
    state["fc.0.weight"] = state.pop("fc.weight")
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(OptionError, match="head is another one") as caught:
        load_model(options_for(tmp_path))
    assert "\n        network.fc = " in caught.value.remedy
