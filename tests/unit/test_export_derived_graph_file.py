"""A graph beside a bundle: on the disk before it has its name, or not there at all."""

import os
from pathlib import Path

import pytest
import torch
from support.frozen_graphs import residual_student
from support.small_disk import largest_file

from lrq_deploy.errors import WriteError
from lrq_deploy.export.bundle.folder import Bundle, write_bundle
from lrq_deploy.export.derived.graph_file import write_graph

pytestmark = pytest.mark.unit


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    images = torch.zeros(1, 3, 16, 16)
    return write_bundle(
        tmp_path / "out", residual_student(), {"model.onnx": b""}, images, 0, {}, {}
    )


def test_a_graph_is_synced_before_it_has_its_name(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "graph.onnx"
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: there.append(out.exists()))
    assert write_graph(out, bundle, False, Path.touch) == 0
    assert there == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.onnx", "out"]


def test_a_full_disk_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_bytes(bytes(10_000))

    with largest_file(4096), pytest.raises(WriteError, match="free space"):
        write_graph(tmp_path / "graph.onnx", bundle, False, make)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
