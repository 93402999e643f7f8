"""Reading state dicts, wanted and unwanted."""

import argparse
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.checkpoints import KINDS, equal_tensors, prefixed, small_weights, write_changed
from torch import nn

from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.errors import CheckpointError, LrqError
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "models"


@pytest.mark.parametrize(
    "content",
    [
        small_weights(),
        OrderedDict(small_weights()),
        {"state_dict": small_weights(), "epoch": 3, "step": torch.tensor(1)},
        {"model": small_weights(), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        {"model": {"state_dict": small_weights()}},
        {"model_state_dict": small_weights(), "loss": 0.25},
        {"net": small_weights(), "acc": 91.25},
        {"checkpoint": {"model": small_weights(), "optimizer": {"lr": 0.1}}},
        {"model": "resnet", "state_dict": small_weights()},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        {"state_dict": prefixed("_orig_mod.module.")},
    ],
    ids=lambda content: next(iter(content)),
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_usual_shapes_of_a_checkpoint(tmp_path: Path, content: Any, legacy: bool) -> None:
    torch.save(content, tmp_path / "c.th", _use_new_zipfile_serialization=not legacy)
    assert equal_tensors(read_state_dict(tmp_path / "c.th").tensors, small_weights())


def test_weights_go_before_their_moving_average(tmp_path: Path) -> None:
    average = {name: torch.zeros_like(tensor) for name, tensor in small_weights().items()}
    torch.save({"state_dict_ema": average, "state_dict": small_weights()}, tmp_path / "c.pt")
    assert equal_tensors(read_state_dict(tmp_path / "c.pt").tensors, small_weights())


@pytest.mark.parametrize(
    ("content", "location"),
    [
        ({"state_dict": 0, "state_dict_ema": 1}, "state_dict_ema"),
        ({"model": 0, "model_ema": 1}, "model_ema"),
        ({"checkpoint": {"model": 0, "EMA": {"module": 1}}}, "checkpoint.EMA.module"),
        ({"model": 0, "ema": {"num_updates": torch.tensor(3), "shadow": 1}}, "ema.shadow"),
        ({"model": 0, "schema": 1}, ""),
        ({"model": 0, "ema": {"decay": torch.ones(())}}, ""),
        ({"state_dict_ema": 1}, ""),
    ],
)
@pytest.mark.parametrize("args", [None, argparse.Namespace(lr=1)])
def test_averaged_weights_beside_are_told_with_the_line_that_saves_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, location: str, args: object
) -> None:
    averaged = {name: tensor + 1 for name, tensor in small_weights().items()}

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(x) for key, x in value.items()}
        return (small_weights(), averaged)[value] if isinstance(value, int) else value

    monkeypatch.chdir(tmp_path)
    path = Path("net.pth.tar")
    torch.save({**filled(content), "args": args}, path)
    found = read_state_dict(path).averaged
    assert found == inspect_model(path).outline.averaged
    assert (found.location if found else "") == location
    if found:
        assert f"weights_only={args is None}" in found.python
        assert found.python in found.remark()
        exec(found.python, {})
        assert equal_tensors(read_state_dict(Path("net-averaged.pt")).tensors, averaged)


def test_an_averaged_module_is_saved_as_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": nn.Linear(2, 3), "ema": nn.Linear(2, 3)}, path)
    found = read_state_dict(path, trust_pickle=True).averaged
    assert found is not None
    assert found == inspect_model(path).outline.averaged
    assert "weights_only=False)['ema'].state_dict()" in found.python


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_arrays_are_to_be_made_tensors(tmp_path: Path, trusted: bool, nested: bool) -> None:
    path = tmp_path / "net.pt"
    arrays = {name: tensor.numpy() for name, tensor in small_weights().items()}
    torch.save({"state_dict": arrays, "epoch": 3} if nested else arrays, path)
    with pytest.raises(CheckpointError, match=r"torch\.from_numpy"):
        read_state_dict(path, trusted)
    with pytest.raises(CheckpointError, match=r"torch\.from_numpy"):
        inspect_model(path)


def test_a_number_of_numpy_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"accuracy": np.float64(0.5)}, path)
    for read in (read_state_dict, inspect_model):
        with pytest.raises(CheckpointError, match="put the state dict at the top"):
            read(path)


def test_safetensors_and_recompressed_archives(tmp_path: Path) -> None:
    save_file(small_weights(), tmp_path / "a.pt")
    assert equal_tensors(read_state_dict(tmp_path / "a.pt").tensors, small_weights())
    torch.save(small_weights(), tmp_path / "b.pt")
    with (
        zipfile.ZipFile(tmp_path / "b.pt") as source,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert equal_tensors(read_state_dict(tmp_path / "c.pt").tensors, small_weights())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in small_weights().items()}
    torch.save(cast, tmp_path / "c.pt")
    found = read_state_dict(tmp_path / "c.pt").tensors
    assert found["conv.weight"].dtype == torch.float32
    assert torch.equal(found["conv.weight"], cast["conv.weight"].float())
    assert found["bn.num_batches_tracked"].dtype == torch.int64


def test_the_shared_networks() -> None:
    files = sorted(SHARED.glob("*.pt"))
    if not files:
        pytest.skip(f"no {SHARED}")
    for path in files:
        tensors = read_state_dict(path).tensors
        assert any(name.endswith("running_var") for name in tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("safe", [False, True], ids=["torch", "safetensors"])
def test_values_that_are_not_finite_are_named(tmp_path: Path, value: float, safe: bool) -> None:
    weights = small_weights()
    weights["fc.weight"][2, 1] = value
    if safe:
        save_file(weights, tmp_path / "c.pt")
    else:
        torch.save(weights, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"1 of 4 tensors.*fc\.weight") as caught:
        read_state_dict(tmp_path / "c.pt")
    assert "conv.weight" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"a": 1}}, 5])
def test_no_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="must hold named tensors"):
        read_state_dict(tmp_path / "c.pt")


def test_training_leftovers_do_no_harm(tmp_path: Path) -> None:
    content = {
        "state_dict": small_weights(),
        "args": argparse.Namespace(lr=0.1, data=Path("x")),
        "best": np.float64(91.5),
        "history": np.arange(3.0),
        "losses": defaultdict(list, {"train": [1.0, 0.5]}),
        "sums": defaultdict(float, {"train": 1.5}),
        "recent": deque([0.5, 0.25], maxlen=2),
        "steps": (range(3), slice(1, 2), frozenset({1}), complex(1, 2), bytearray(b"x")),
    }
    for legacy in (False, True):
        torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
        assert equal_tensors(read_state_dict(tmp_path / "c.pt").tensors, small_weights())


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_bomb_is_named_and_does_not_go_off(tmp_path: Path, legacy: bool) -> None:
    executed = tmp_path / "executed"
    content = {"state_dict": small_weights(), "extra": _Bomb(executed)}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=rf"{os.system.__module__}\.system") as caught:
        read_state_dict(tmp_path / "c.pt")
    assert "--trust-pickle" in caught.value.remedy
    assert not executed.exists()
    read_state_dict(tmp_path / "c.pt", trust_pickle=True)
    assert executed.exists()


def test_a_bomb_as_a_plain_pickle(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    for protocol in (0, 2, 4):
        (tmp_path / "c.pt").write_bytes(pickle.dumps(_Bomb(executed), protocol))
        with pytest.raises(CheckpointError, match="plain pickle"):
            read_state_dict(tmp_path / "c.pt", trust_pickle=True)
    assert not executed.exists()


def test_a_module_is_refused_by_name_or_trusted(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).half()
    torch.save({"epoch": 1, "model": nn.DataParallel(network)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"pickled module.*torch\.nn\.modules\.conv\.Conv2d"):
        read_state_dict(tmp_path / "c.pt")
    found = read_state_dict(tmp_path / "c.pt", trust_pickle=True)
    assert isinstance(found.module, nn.Sequential)
    assert not found.module.training
    assert found.tensors["0.weight"].dtype == torch.float32


def test_a_trusted_module_without_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = types.ModuleType("lost_package")
    exec("from torch import nn\nclass Lost(nn.Module): pass", vars(lost))
    monkeypatch.setitem(sys.modules, "lost_package", lost)
    lost.Lost.__module__ = "lost_package"
    torch.save(lost.Lost(), tmp_path / "c.pt")
    monkeypatch.delitem(sys.modules, "lost_package")
    with pytest.raises(CheckpointError, match=r"lost_package\.Lost"):
        read_state_dict(tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"ModuleNotFoundError.*lost_package"):
        read_state_dict(tmp_path / "c.pt", trust_pickle=True)


def test_no_more_than_ten_globals_are_named(tmp_path: Path) -> None:
    kinds = [nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.CELU, nn.SELU, nn.Sigmoid]
    kinds += [nn.Identity, nn.Flatten, nn.Softplus, nn.Softsign]
    torch.save(nn.Sequential(*(kind() for kind in kinds)), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"and 4 more") as caught:
        read_state_dict(tmp_path / "c.pt")
    assert caught.value.received.count("torch.nn.modules.") == 10


def test_mappings_that_contain_each_other_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content.update({f"{number}": content for number in range(26)})
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="astronomical"):
        read_state_dict(tmp_path / "c.pt")
    few: dict[str, Any] = {"state_dict": small_weights()}
    few["self"] = few
    torch.save(few, tmp_path / "few.pt")
    assert read_state_dict(tmp_path / "few.pt").tensors.keys() == small_weights().keys()


def test_attributes_that_a_file_sets_stand_in_no_way(tmp_path: Path) -> None:
    weights = OrderedDict(
        (name, nn.Parameter(x, requires_grad=False)) for name, x in small_weights().items()
    )
    for value in weights.values():
        value.detach = value.numel = "no method"  # type: ignore[assignment,method-assign]
    weights.get = weights.values = "no method"  # type: ignore[assignment,method-assign]
    torch.save(weights, tmp_path / "c.pt")
    assert read_state_dict(tmp_path / "c.pt").tensors.keys() == small_weights().keys()


def test_tensors_larger_than_their_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**30)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="larger than their file"):
        read_state_dict(tmp_path / "c.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["sparse", "quantized", "meta"])
def test_tensors_that_are_not_plain(tmp_path: Path, kind: str) -> None:
    if kind == "sparse":
        tensor = torch.ones(2, 2).to_sparse()
    elif kind == "meta":
        tensor = torch.ones(2, device="meta")
    else:
        tensor = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
    torch.save({"a": tensor}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="must be dense"):
        read_state_dict(tmp_path / "c.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_cut_anywhere(tmp_path: Path, legacy: bool) -> None:
    torch.save(small_weights(), tmp_path / "c.pt", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "c.pt").read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 23):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_state_dict(tmp_path / "cut.pt")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_file_with_changed_bytes_gives_weights_or_a_stated_error(
    tmp_path: Path, data: st.DataObject, kind: str
) -> None:
    path = tmp_path / "c.pt"
    write_changed(path, small_weights(), kind, data)
    try:
        found = read_state_dict(path)
    except LrqError:
        return
    assert found.tensors
