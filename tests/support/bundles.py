"""Bundles of small frozen students."""

from pathlib import Path

import torch

from lrq_deploy.export.bundle.folder import Bundle, write_bundle
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.ladder import climb
from lrq_deploy.export.targets import targets
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["agreeing_forms", "bundle_of"]


def bundle_of(model: QuantizedModel, path: Path) -> Bundle:
    """A bundle with every dialect and one black image."""
    graphs = {
        target.file_name: to_onnx(model, target).SerializeToString(deterministic=True)
        for target in targets().choose("auto", model.scheme).targets
    }
    return write_bundle(path, model, graphs, torch.zeros(1, *model.input_shape), 0, {}, {})


def agreeing_forms(bundle: Bundle, images: torch.Tensor) -> list[float]:
    """Share of equal rows of every form of a student with float layers; each must be in bounds."""
    graph, other = bundle.file("model.onnx"), {"tensorrt": bundle.file("model.tensorrt.onnx")}
    ladder = climb(bundle.model(), graph, [images], other, reference_count=8)
    assert ladder.failures == ()
    assert all(rung.parity is not None for rung in ladder.rungs)
    return [rung.parity.same_rows for rung in ladder.rungs if rung.parity is not None]
