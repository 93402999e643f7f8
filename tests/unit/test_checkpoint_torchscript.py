"""TorchScript archives: weights without running anything, and the program of a trusted one."""

import os
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import Mobile, Residual, with_statistics
from torch import nn

from lrq_deploy.checkpoint.identify import identify
from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.checkpoint.torchscript import read_script
from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit

Compile = Callable[[nn.Module], torch.jit.ScriptModule]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _traced(network: nn.Module) -> torch.jit.ScriptModule:
    traced: torch.jit.ScriptModule = torch.jit.trace(network, torch.zeros(2, 3, 12, 12))
    return traced


def _frozen(network: nn.Module) -> torch.jit.ScriptModule:
    frozen: torch.jit.ScriptModule = torch.jit.freeze(_traced(network))
    return frozen


def _saved(script: torch.jit.ScriptModule, path: Path) -> Path:
    torch.jit.save(script, path)
    return path


def _rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    changed = path.with_suffix(".changed")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, change(name, archive.read(name)))
    return changed


@pytest.mark.parametrize("compiled", [_traced, torch.jit.script], ids=["traced", "scripted"])
@pytest.mark.parametrize("made", [Residual, Mobile])
def test_the_weights_are_those_of_the_network(
    tmp_path: Path, compiled: Compile, made: Callable[[], nn.Module]
) -> None:
    network = with_statistics(made())
    path = _saved(compiled(network), tmp_path / "model.pt")
    assert identify(path).kind == "torchscript"
    found = read_state_dict(path)
    expected = network.state_dict()
    assert found.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found.tensors[name], value)
    outline = inspect_model(path).outline
    assert {n: t.shape for n, t in outline.tensors.items()} == {
        name: tuple(value.shape) for name, value in expected.items()
    }
    assert outline.module_class.endswith(f".{made.__name__}")
    assert outline.unsafe_globals == ()


def test_half_weights_become_float32(tmp_path: Path) -> None:
    network = with_statistics(Residual()).half()
    found = read_state_dict(_saved(torch.jit.script(network), tmp_path / "model.pt"))
    assert found.tensors["head.weight"].dtype == torch.float32
    assert torch.equal(found.tensors["head.weight"], network.head.weight.float())


def test_the_code_is_not_read(tmp_path: Path) -> None:
    network = with_statistics(Residual())
    path = _saved(_traced(network), tmp_path / "model.pt")
    spoilt = _rewritten(path, lambda name, data: b"" if "/code/" in name else data)
    assert read_state_dict(spoilt).tensors.keys() == network.state_dict().keys()
    with pytest.raises(CheckpointError, match="must load with torch"):
        read_script(identify(spoilt))


def test_weights_in_the_code_are_not_to_be_had(tmp_path: Path) -> None:
    path = _saved(_frozen(with_statistics(Residual())), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"jit\.freeze.*--trust-pickle with --input-shape"):
        read_state_dict(path)
    assert inspect_model(path).outline.tensors == {}
    assert isinstance(read_script(identify(path)), torch.jit.ScriptModule)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._marker),))


def test_a_foreign_class_is_refused_and_not_run(tmp_path: Path) -> None:
    path = _saved(_traced(with_statistics(Residual())), tmp_path / "model.pt")
    bomb = pickle.dumps(_Bomb(tmp_path / "ran"), 2)
    armed = _rewritten(path, lambda name, data: bomb if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match=r"wants to import .*mkdir"):
        read_state_dict(armed)
    assert inspect_model(armed).outline.unsafe_globals[0].endswith("mkdir")
    assert not (tmp_path / "ran").exists()


def test_a_part_that_holds_itself_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("__torch__")
    part = type("Part", (), {"__module__": "__torch__", "__qualname__": "Part"})
    module.Part = part  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__torch__", module)
    root = part()
    root.first, root.second = root, root
    loop = pickle.dumps(root, 2)
    path = _saved(_traced(with_statistics(Residual())), tmp_path / "model.pt")
    endless = _rewritten(path, lambda name, data: loop if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="must hold its weights as parameters"):
        read_state_dict(endless)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_damaged_pickle(tmp_path: Path, kept: float) -> None:
    path = _saved(_traced(with_statistics(Residual())), tmp_path / "model.pt")
    cut = _rewritten(
        path, lambda name, data: data[: int(kept * len(data))] if "data.pkl" in name else data
    )
    for read in (read_state_dict, inspect_model, lambda p: read_script(identify(p))):
        with pytest.raises(CheckpointError):
            read(cut)
