"""Fitting weights into a network and telling its class count."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from lrq_deploy.checkpoint.fit import differences, fit_state_dict
from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit


def _network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, classes))


@given(
    prefixes=st.lists(st.sampled_from(["model.", "backbone.", "net.", "0."]), max_size=3),
)
def test_shared_prefixes_are_dropped(prefixes: list[str]) -> None:
    source, target = _network(seed=1), _network(seed=2)
    lead = "".join(prefixes)
    fit_state_dict(target, {lead + n: t for n, t in source.state_dict().items()})
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


def test_missing_batch_counters_are_no_misfit() -> None:
    weights = {n: t for n, t in _network().state_dict().items() if not n.endswith("tracked")}
    target = _network(seed=1)
    fit_state_dict(target, weights)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in weights.items())


def test_a_misfit_names_five_and_changes_nothing() -> None:
    target = _network(seed=1)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    weights = dict(_network(classes=4).state_dict())
    del weights["1.weight"]
    weights["0.weight"] = weights["0.weight"].to(torch.int8)
    weights |= {f"extra.{i}": torch.ones(i + 1, 7) for i in range(4)}
    with pytest.raises(CheckpointError) as caught:
        fit_state_dict(target, weights, what="net.py:build")
    received = caught.value.received
    assert "1 missing, 4 unexpected and 3 tensors of another shape" in received
    for part in (
        "0.weight (file int8 [2,1,3,3], network [2,1,3,3])",
        "1.weight (missing; network [2])",
        "3.weight (file [4,2], network [3,2])",
        "3.bias (file [4], network [3])",
        "extra.0 (unexpected; file [1,7])",
    ):
        assert part in received
    assert "extra.1" not in received
    assert "net.py:build" in caught.value.rule
    assert all(torch.equal(before[name], t) for name, t in target.state_dict().items())


def test_a_misfit_is_told_below_the_prefix_that_comes_closest() -> None:
    weights = {f"model.{n}": t for n, t in _network(classes=4).state_dict().items()}
    with pytest.raises(CheckpointError, match="0 missing, 0 unexpected and 2 tensors of another"):
        fit_state_dict(_network(), weights)


def test_auxiliary_heads_may_be_left_over() -> None:
    weights = {**_network().state_dict(), "aux1.weight": torch.ones(2)}
    assert differences(_network(), weights, ("aux1.",)) == []
    assert [d.name for d in differences(_network(), weights)] == ["aux1.weight"]


@pytest.mark.parametrize("place", ["model.", ""])
def test_tensors_beside_the_network_are_named(place: str) -> None:
    network = _network()
    tensors = {place + name: value for name, value in network.state_dict().items()}
    tensors |= {"loss.centres": torch.ones(3), "old.0.weight": torch.ones(2)}
    said = f"all of them under {place!r}, and 2 other tensors: loss.centres, old.0.weight"
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        fit_state_dict(network, tensors)
    assert (repr(place) in caught.value.remedy) is bool(place)


class _Module(nn.Module):
    """A network whose own part is called as wrappers call theirs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner


def _compiled_part(inner: nn.Module) -> nn.Module:
    inner[0] = torch.compile(inner[0])  # type: ignore[index, operator]
    return inner


WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "module": _Module,
    "module-twice": lambda inner: _Module(_Module(inner)),
    "compiled": torch.compile,
    "compiled-part": _compiled_part,
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_a_network_takes_its_own_weights_whatever_its_parts_are_called(
    tmp_path: Path, wrap: Callable[[nn.Module], Any], before: str
) -> None:
    trained, fresh = wrap(_network(seed=1)), wrap(_network(seed=2))
    saved = {before + name: tensor for name, tensor in trained.state_dict().items()}
    torch.save(saved, tmp_path / "net.pt")
    fit_state_dict(fresh, read_state_dict(tmp_path / "net.pt").tensors)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    with pytest.raises(CheckpointError, match="must fit"):
        fit_state_dict(wrap(_network(classes=4)), read_state_dict(tmp_path / "net.pt").tensors)


BESIDE: dict[str, dict[str, Tensor]] = {
    "inside": {"0.gate.weight": torch.ones(2)},
    "inside-by-word": {"0.weight_u": torch.ones(2), "3.weight_u": torch.ones(2)},
    "top": {"temperature": torch.ones(1), "mean.value": torch.ones(3)},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("before", ["", "module.", "net.", "module.net.", "_orig_mod."])
@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("kind", ["torch", "nested", "safetensors"])
def test_the_line_that_saves_the_network_alone_is_real(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    beside: dict[str, Tensor],
    before: str,
    outside: bool,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    network, path = _network(seed=1), Path("net.pt")
    content: Any = {before + n: t for n, t in {**network.state_dict(), **beside}.items()}
    content |= {"ema.0.weight": torch.ones(2), "ema.n": torch.ones(1)} if outside else {}
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save({"run": {"model": content}} if kind == "nested" else content, path)
    read = read_state_dict(path)
    number = len(beside) + 2 * outside
    said = f"and {number} other tensor{'s' if number > 1 else ''}: "
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        fit_state_dict(_network(), read.tensors, source=read.source)
    line, _, target = caught.value.remedy.partition(" (import ")[2].rpartition(") and pass ")
    exec(f"import {line}", {})
    again, fresh = read_state_dict(Path(target)), _network()
    assert again.tensors.keys() == network.state_dict().keys()
    fit_state_dict(fresh, again.tensors)
    for name, tensor in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_a_wrapper_inside_of_the_network_does_no_harm_to_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = _compiled_part(_network(seed=1))
    content = {f"net.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save(content | {"net.0._orig_mod.stray": torch.ones(2), "loss": torch.ones(1)}, "net.pt")
    read = read_state_dict(Path("net.pt"))
    with pytest.raises(CheckpointError, match="and 2 other tensors") as caught:
        fit_state_dict(_network(), read.tensors, source=read.source)
    exec(f"import {caught.value.remedy.partition(' (import ')[2].rpartition(') and')[0]}", {})
    fresh = _network()
    fit_state_dict(fresh, read_state_dict(Path("net-weights.pt")).tensors)
    assert torch.equal(fresh.state_dict()["0.weight"], content["net.0._orig_mod.weight"])
