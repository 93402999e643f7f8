"""Finished stages in a folder that several users share."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lrq_deploy.resume.stage_store import StageStore

pytestmark = pytest.mark.unit

KEY = "0123456789abcdef" * 4


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_what_another_user_keeps_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    path = store.add("images", KEY, {"seconds": 2.0})
    monkeypatch.setattr(os, "utime", refuse)
    assert store.find("images", KEY) == {"seconds": 2.0}
    monkeypatch.setattr(Path, "unlink", refuse)
    path.write_bytes(b"damaged")
    assert store.find("images", KEY) is None
    assert path.exists()


def test_damage_of_ones_own_is_deleted(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    store.add("images", KEY, {"seconds": 2.0}).write_bytes(b"damaged")
    assert store.find("images", KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    path = store.add("images", KEY, {"seconds": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert store.find("images", KEY) is None
    assert list(tmp_path.iterdir()) == [path]
    with monkeypatch.context() as patch:
        # Another run deletes it between its check and its reading.
        patch.setattr(torch, "load", refuse)
        assert store.find("images", KEY) is None
    assert store.find("images", KEY) == {"seconds": 2.0}
