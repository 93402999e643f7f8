"""``benchmarks/families.py``: networks of other families, and how they are taught."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.benchmark_scripts import benchmark_script
from support.small_networks import Residual
from torch import nn

from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit

SHAPE = (3, 32, 32)


@pytest.fixture
def families(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("families", monkeypatch)


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    module = Residual(classes=10).eval()
    return make_teacher(module, SHAPE, Preprocessing((0.5,) * 3, (0.2,) * 3), "residual", "0" * 64)


def test_the_grid_knows_every_family(families: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = benchmark_script("accuracy", monkeypatch)
    assert accuracy.FAMILIES.keys() == families.FAMILIES.keys()
    for name, network in accuracy.FAMILIES.items():
        path, _, function = network.arch.partition(":")
        assert (Path(path).exists(), function) == (True, name)


def test_every_network_learns(
    families: ModuleType, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "BATCH", 8)
    images = torch.randn(8, *SHAPE)
    for name, build in families.FAMILIES.items():
        torch.manual_seed(0)
        network = build()
        first = families.train(network, teacher, images, 1)
        assert families.train(network, teacher, images, 12) < first, name
        assert network(images[:2]).shape == (2, 10)


def test_what_is_there_is_not_trained_again(
    families: ModuleType, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "load_teacher", lambda _: teacher)
    monkeypatch.setattr(families, "_images", lambda *_: torch.randn(8, *SHAPE))
    monkeypatch.setattr(families, "FAMILIES", {"a": tiny, "b": tiny})
    (tmp_path / "a.pt").write_bytes(b"there")
    words = [f"--out={tmp_path}", "--networks=a,b", "--steps=1"]
    monkeypatch.setattr(sys, "argv", ["families.py", *words])
    families.main()
    assert (tmp_path / "a.pt").read_bytes() == b"there"
    tiny().load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True))


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )
