"""``model.onnx`` in ONNX Runtime's own format, by the converter that comes with the runtime."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from support.frozen_graphs import mobile_student, residual_student

from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit


def test_the_converter_takes_the_graph_in_both_of_its_styles(
    tmp_path: Path,
) -> None:
    model = residual_student(4, 4, blocks=(1, 2))
    graph = to_onnx(model, "onnxruntime").SerializeToString(deterministic=True)
    folder = tmp_path / "ort"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(graph)
    done = subprocess.run(
        [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    images = torch.randn(8, *model.input_shape, generator=torch.Generator().manual_seed(0))
    expected = open_session(graph).logits(images)
    fixed, at_run_time = (
        open_session(folder / f"model{infix}.ort").logits(images)
        for infix in ("", ".with_runtime_opt")
    )
    assert torch.equal(fixed, expected)
    assert torch.allclose(at_run_time, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("make", [residual_student, mobile_student])
def test_layers_of_equal_width_share_the_zero_points_of_their_biases(
    make: Callable[[], QuantizedModel],
) -> None:
    graph = to_onnx(make(), "onnxruntime").graph
    numbers = {x.name: numpy_helper.to_array(x) for x in graph.initializer}
    biases = [x for x in graph.node if x.input and x.input[0].endswith(".bias_int32")]
    sizes = set()
    for node in biases:
        bias, zero_point = (numbers[node.input[index]] for index in (0, 2))
        assert np.array_equal(zero_point, np.zeros_like(bias))
        sizes.add(bias.size)
    assert len(biases) > len(sizes) > 0
    assert len({node.input[2] for node in biases}) == len(sizes)
