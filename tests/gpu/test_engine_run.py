"""An engine gives what was trained."""

from pathlib import Path

import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import mobile_student, residual_student

from lrq_deploy.export.engine.from_bundle import build_from_bundle, default_engine_path
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions
from lrq_deploy.export.engine.run import open_engine
from lrq_deploy.export.parity.ladder import climb
from lrq_deploy.student.frozen import QuantizedModel

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

STUDENTS = {
    "residual": lambda: residual_student(4, 4),
    "mobile": lambda: mobile_student(asymmetric=False),
}


@pytest.mark.parametrize("name", STUDENTS)
def test_an_engine_answers_like_the_student(name: str, tmp_path: Path) -> None:
    model: QuantizedModel = STUDENTS[name]()
    bundle = bundle_of(model, tmp_path / "net")
    major, minor = torch.cuda.get_device_capability()
    # Batches of 3 are padded, those of 40 are split.
    options = EngineOptions("tensorrt-rtx", (10 * major + minor,), BatchProfile(4, 8, 16))
    build_from_bundle(bundle, options, default_engine_path(bundle, options.kind))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(n, *model.input_shape, generator=generator) for n in (3, 40)]
    ladder = climb(model, bundle.file("model.onnx"), images, engine=lambda: open_engine(bundle))
    assert ladder.rungs[-1].skipped == ""
    ladder.require()
