"""The Python file to start from, where the head is another than the known network's."""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torchvision
from support.architecture_index import inspected, keep_indexes
from torch import nn

from lrq_deploy.inspection.advice import advise

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_indexes(tmp_path / "cache", monkeypatch)


class _Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        self.backbone.fc = nn.Identity()
        self.classifier = nn.Linear(512, 10, bias=False)


class _NamedHead(nn.Module):
    """As MMPretrain names it: ``backbone.conv1.weight`` and ``head.fc.weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        self.backbone.fc = nn.Identity()
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(512, 10)))


def _with_head(name: str, place: str, head: nn.Module) -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name)
    setattr(network, place, head)
    return network


def _deeper_head() -> nn.Module:
    layers = (nn.Linear(1280, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 2))
    return _with_head("mobilenet_v2", "classifier", nn.Sequential(*layers))


def _dropout_head() -> nn.Module:
    return _with_head("resnet18", "fc", nn.Sequential(nn.Dropout(), nn.Linear(512, 10)))


def _dropout_in_named_head() -> nn.Module:
    network = _NamedHead()
    network.head = nn.Sequential(OrderedDict(fc=nn.Sequential(nn.Dropout(), nn.Linear(512, 10))))
    return network


@pytest.mark.parametrize(
    ("build", "gaps"),
    [(_dropout_head, 1), (_deeper_head, 1), (_Wrapped, 0), (_NamedHead, 0)],
)
def test_the_example_for_another_head_takes_the_weights(
    tmp_path: Path, build: Callable[[], nn.Module], gaps: int
) -> None:
    network = build()
    found = inspected(network.state_dict(), tmp_path / "x.pt")
    advice = advise(found)
    assert "head is another one" in advice.sentence
    text, _, remark = advice.example.partition("\n#")
    assert text.count("...") == gaps
    assert bool(remark) == bool(gaps)
    with pytest.raises(TypeError) if gaps else nullcontext():
        _factory(text)()
    _factory(text.replace("...", "nn.Identity()"))().load_state_dict(network.state_dict())


def test_a_layer_that_no_tensor_shows_leaves_the_head_open(tmp_path: Path) -> None:
    found = inspected(_dropout_in_named_head().state_dict(), tmp_path / "x.pt")
    assert "self.head = ...\n" in advise(found).example


def _factory(text: str) -> Callable[[], nn.Module]:
    scope: dict[str, Any] = {}
    exec(text, scope)
    made: Callable[[], nn.Module] = scope.get("build") or scope["Network"]
    return made


def test_a_name_in_a_file_never_becomes_code(tmp_path: Path) -> None:
    state = {
        name.replace("backbone", "b b").replace("classifier", "x\nimport os#"): value
        for name, value in _Wrapped().state_dict().items()
    }
    advice = advise(inspected(state, tmp_path / "x.pt"))
    assert "import os" not in advice.example
    assert "network.fc = ...\n" in advice.example
