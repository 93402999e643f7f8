"""Bundles of small frozen students."""

from pathlib import Path

import torch

from lrq_deploy.export.bundle import Bundle, write_bundle
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.targets import targets
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["bundle_of"]


def bundle_of(model: QuantizedModel, path: Path) -> Bundle:
    """A bundle with every dialect and one black image."""
    graphs = {
        target.file_name: to_onnx(model, target).SerializeToString(deterministic=True)
        for target in targets().choose("auto", model.scheme).targets
    }
    return write_bundle(path, model, graphs, torch.zeros(1, *model.input_shape), 0, {}, {})
