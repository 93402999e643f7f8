"""Graphs in ONNX Runtime: what is told where one cannot be written."""

from pathlib import Path

import pytest
from support.frozen_graphs import residual_student

from lrq_deploy.errors import ExportError
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit


def test_a_full_disk_is_not_taken_for_a_damaged_graph(tmp_path: Path) -> None:
    graph = to_onnx(residual_student(blocks=(1,)), "onnxruntime").SerializeToString()
    with pytest.raises(OSError, match="No space left"):
        open_session(graph, optimized=Path("/dev/full"))
    with pytest.raises(ExportError, match="must load in ONNX Runtime"):
        open_session(graph[:-100], optimized=tmp_path / "optimized.onnx")
