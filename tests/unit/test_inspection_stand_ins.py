"""Unpickling into outlines: as PyTorch sees the tensors, without PyTorch and without code."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.outline import TensorOutline
from lrq_deploy.inspection.stand_ins import (
    StandIn,
    is_module,
    module_tensors,
    unpickle_outlines,
)

pytestmark = pytest.mark.unit


def _outlines(content: object) -> Any:
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return unpickle_outlines(archive.read(name))[0]


def _wanted(state: dict[str, Any]) -> dict[str, TensorOutline]:
    return {
        name: TensorOutline(tuple(t.shape), str(t.dtype).removeprefix("torch."))
        for name, t in state.items()
    }


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8),
        *(torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn),
    ],
)
def test_shapes_and_dtypes_are_those_of_torch(dtype: torch.dtype) -> None:
    state = {"a": torch.zeros(2, 3, dtype=dtype), "b": torch.zeros((), dtype=dtype)}
    assert _outlines(state) == _wanted(state)
    assert _outlines(OrderedDict(state)) == _wanted(state)


def test_unusual_tensors() -> None:
    state = {
        "parameter": nn.Parameter(torch.zeros(3)),
        "strided": torch.zeros(4, 6)[:, ::2],
        "meta": torch.zeros(5, device="meta"),
    }
    assert _outlines(state) == _wanted(state)


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("hidden", torch.zeros(7), persistent=False)
        self.register_buffer("shown", torch.zeros(2))
        self.absent = None


def test_a_pickled_module_gives_its_state_dict_unexecuted() -> None:
    network = nn.DataParallel(_Odd())
    found = _outlines(network)
    assert is_module(found)
    assert found.qualified_name == "torch.nn.parallel.data_parallel.DataParallel"
    assert module_tensors(found) == _wanted(network.state_dict())


def test_modules_that_contain_each_other_end() -> None:
    root = StandIn()
    weight = TensorOutline((1,), "float32")
    root.state = {"_modules": {"a": root, "b": root}, "_parameters": {"w": weight}}
    names = list(module_tensors(root))
    assert names[:3] == ["w", "a.w", "a.a.w"]
    assert len(names) <= 20_000
    assert max(len(name) for name in names) <= 1_010


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_bomb_does_not_go_off(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"x": _Bomb(tmp_path / "executed")}, protocol)
    found, end = unpickle_outlines(data + b"rest")
    assert isinstance(found, dict)
    assert isinstance(found["x"], StandIn)
    assert found["x"].qualified_name.endswith(".system")
    assert end == len(data)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}",
        b"\x80\x02c",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00(NK\x00(J\xff\xff\xff\xfft)tR.",
    ],
    ids=["empty", "cut", "half a name", "a tensor of nothing", "a negative size"],
)
def test_damaged_pickles_are_stated_errors(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="must be complete"):
        unpickle_outlines(data)


def test_a_memo_index_does_not_allocate() -> None:
    """Python's unpickler in C would ask for 32 GiB here."""
    assert unpickle_outlines(b"\x80\x02}r\xff\xff\xff\x7f.")[0] == {}
