"""Where a model and its code may lie: a folder with one file, code beside it or where one works."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lrq_deploy.loading import load_model
from lrq_deploy.options import QuantizeOptions

pytestmark = pytest.mark.unit

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(784, 6))
"""


def _options(model: Path, **changes: Any) -> QuantizeOptions:
    out = model.parent / "out"
    return QuantizeOptions(model=model, out=out, input_shape=(3, 16, 16), **changes)


def test_the_code_of_a_trusted_module_is_found_beside_it_and_where_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console script does not have the working directory among the places of imports."""
    monkeypatch.chdir(tmp_path)
    places = {"beside": tmp_path / "models", "working": tmp_path}
    (tmp_path / "models").mkdir()
    for name, place in places.items():
        path = place / f"net_{name}_{tmp_path.name}.py"
        path.write_text(f"{NET}\nclass Net(nn.Sequential):\n    pass\n", encoding="utf-8")
        with monkeypatch.context() as context:
            context.syspath_prepend(place)
            module = importlib.import_module(path.stem)
            torch.save(module.Net(*module.build()), tmp_path / "models" / f"{name}.pt")
        del sys.modules[path.stem]
    before = list(sys.path)
    for name in places:
        options = _options(tmp_path / "models" / f"{name}.pt", trust_pickle=True)
        found = load_model(options)
        assert type(found.program).__name__ == "Net"
        del sys.modules[f"net_{name}_{tmp_path.name}"]
    assert sys.path == before
    assert list(tmp_path.rglob("__pycache__")) == []


def test_a_folder_stands_for_its_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(NET, scope)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    torch.save(scope["build"]().state_dict(), folder / "weights.pt")
    found = load_model(_options(folder, arch=f"{tmp_path / 'net.py'}:build"))
    assert found.origin == "torch.save archive weights.pt"
