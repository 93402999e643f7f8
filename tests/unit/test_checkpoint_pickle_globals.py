"""Globals read from opcodes, against what pickle itself writes."""

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrq_deploy.checkpoint.pickle_globals import (
    MAX_PICKLE_BYTES,
    archive_globals,
    legacy_globals,
    scan_pickle,
)
from lrq_deploy.errors import CheckpointError

pytestmark = pytest.mark.unit


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_shows_what_it_imports(protocol: int) -> None:
    data = pickle.dumps([_Bomb(), "posix", {"k": _Bomb()}, io.BytesIO], protocol)
    assert set(scan_pickle(io.BytesIO(data))) == {f"{os.system.__module__}.system", "_io.BytesIO"}


def test_memoised_strings_are_followed_into_stack_global() -> None:
    data = pickle.dumps(["posix", "system"], 4)[:-1] + b"h\x01h\x02\x93."
    names = scan_pickle(io.BytesIO(data))
    assert len(names) == 1
    assert names[0] in {"posix.system", "system.posix"}


def test_computed_names_and_extensions_do_not_hide() -> None:
    assert scan_pickle(io.BytesIO(b"\x80\x04)\x8c\x06system\x93.")) == ("<computed>.system",)
    assert scan_pickle(io.BytesIO(b"\x80\x02\x82\x07.")) == ("<copyreg extension 7>",)
    assert scan_pickle(io.BytesIO(b"(S'x'\nios\nsystem\n.")) == ("os.system",)


def test_a_network_is_unsafe_and_its_weights_are_not(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    for new in (True, False):
        read = archive_globals if new else legacy_globals
        torch.save(network, tmp_path / "net.pt", _use_new_zipfile_serialization=new)
        assert "torch.nn.modules.conv.Conv2d" in read(tmp_path / "net.pt").unsafe
        torch.save(network.state_dict(), tmp_path / "sd.pt", _use_new_zipfile_serialization=new)
        found = read(tmp_path / "sd.pt")
        assert found.unsafe == ()
        assert "torch._utils._rebuild_tensor_v2" in found.names


def test_tuples_that_would_hash_for_ever_are_refused() -> None:
    bomb = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"."
    with pytest.raises(CheckpointError, match="astronomical"):
        scan_pickle(io.BytesIO(bomb))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x02tR.",
        b"c__builtin__\nbytearray\nK\x07\x85R.",
        b"cbuiltins\nbytearray\n]q\x00K\x07a0h\x00R.",
        b"cbuiltins\nlist\n(cbuiltins\nbytearray\nK\x07tR.",
    ],
)
def test_a_bytearray_is_made_of_bytes_alone(pickled: bytes) -> None:
    with pytest.raises(CheckpointError, match="a bytearray of something else than bytes"):
        scan_pickle(io.BytesIO(b"\x80\x02" + pickled))
    for value in (bytearray(), bytearray(b"abc\xff")):
        for protocol in range(6):
            scan_pickle(io.BytesIO(pickle.dumps([value, value], protocol)))


def test_an_unknown_escape_is_damage_and_no_warning() -> None:
    with pytest.raises(CheckpointError, match="invalid escape"):
        scan_pickle(io.BytesIO(b"c\\hoge\nx\n."))


def test_deep_nesting_and_giant_memos_end() -> None:
    deep = b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b"."
    assert scan_pickle(io.BytesIO(deep)) == ()
    memo = b"\x80\x02]" + b"r\xff\xff\xff\x7f" * 1000 + b"."
    assert scan_pickle(io.BytesIO(memo)) == ()


def test_endless_opcodes_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrq_deploy.checkpoint.pickle_globals.MAX_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="opcodes"):
        scan_pickle(io.BytesIO(b"\x80\x02" + b"N0" * 1000 + b"N."))
    assert MAX_PICKLE_BYTES < 2**30


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_pickle_or_a_stated_error(body: bytes) -> None:
    try:
        names = scan_pickle(io.BytesIO(body))
    except CheckpointError:
        return
    assert all("." in name or "extension" in name for name in names)
    assert list(pickletools.genops(io.BytesIO(body)))[-1][0].name == "STOP"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=100)
@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_import_nothing(value: object, protocol: int) -> None:
    stream = io.BytesIO(pickle.dumps(value, protocol) + b"rest")
    assert scan_pickle(stream) == ()
    assert stream.read() == b"rest"
