"""Facts about networks and weights, each from the module to what ONNX Runtime answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.small_networks import conv_bn, images, with_statistics
from torch import nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.reference import reference_logits
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.loading import adopt_module
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.integration

Shape = tuple[int, int, int]

FLOAT = {"conv_transpose2d": "no integer transposed convolution"}
"""Kinds of layers that ONNX Runtime computes in float, with the reason that is told."""


def _pictures() -> nn.Module:
    """One channel, 2 classes."""
    body = nn.Sequential(conv_bn(1, 4, 2), nn.ReLU(), conv_bn(4, 8), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def _linear() -> nn.Module:
    """Linear layers alone, with BatchNorm1d and dropout, and 1,000 classes."""
    hidden = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout())
    return nn.Sequential(nn.Flatten(), hidden, nn.Linear(32, 1000))


def _spread() -> nn.Module:
    """Transposed, dilated, depthwise with a multiplier, reflected padding."""
    up = nn.Sequential(nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6))
    wide = nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=6, padding_mode="reflect")
    body = nn.Sequential(conv_bn(3, 4, 2), nn.ReLU(), up, nn.ReLU6(), wide, nn.BatchNorm2d(12))
    return nn.Sequential(body, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, 3))


def _tied() -> nn.Module:
    """One weight in two convolutions, each with a BatchNorm of its own."""
    network = nn.Sequential(conv_bn(3, 4), nn.ReLU(), conv_bn(4, 4), nn.ReLU(), conv_bn(4, 4))
    first, second = network[2], network[4]
    assert isinstance(first, nn.Sequential)
    assert isinstance(second, nn.Sequential)
    second[0].weight = first[0].weight
    return nn.Sequential(network, nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 4))


@dataclass(frozen=True)
class Fact:
    build: Callable[[], nn.Module]
    shape: Shape
    classes: int
    layers: int
    dtype: torch.dtype = torch.float32


FACTS = {
    "one channel, not square, 2 classes": Fact(_pictures, (1, 16, 28), 2, 3),
    "linear only, 1,000 classes": Fact(_linear, (1, 8, 8), 1000, 2),
    "transposed and dilated": Fact(_spread, (3, 12, 20), 3, 4),
    "tied weights": Fact(_tied, (3, 12, 9), 4, 4),
    "float16": Fact(_pictures, (1, 16, 28), 2, 3, torch.float16),
    "bfloat16": Fact(_pictures, (1, 16, 28), 2, 3, torch.bfloat16),
    "float64": Fact(_pictures, (1, 16, 28), 2, 3, torch.float64),
}


@pytest.mark.parametrize("name", FACTS)
def test_a_network_to_onnx_runtime(name: str, tmp_path: Path) -> None:
    fact = FACTS[name]
    module = with_statistics(fact.build()).to(fact.dtype)
    channels = fact.shape[0]
    options = QuantizeOptions(
        tmp_path / "mine",
        tmp_path / "out",
        input_shape=fact.shape,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    loaded = adopt_module(module, options)
    teacher = make_teacher(loaded.program, fact.shape, loaded.preprocessing, name, "0" * 64)
    assert (teacher.num_classes, teacher.input_shape) == (fact.classes, fact.shape)
    x = images(12, fact.shape)
    torch.testing.assert_close(teacher.logits(x), module.float()(x))
    scheme = Scheme(4, 4, 8)
    folded = fold_batch_norm(teacher.graph)
    student = place_quantizers(folded, scheme, PORTABLE, teacher.preprocessing)
    calibrate(student, x, symmetric=True, seed=0)
    model = frozen_model(student, scheme, teacher)
    data = to_onnx(model).SerializeToString()
    exact = exact_logits(model, x)
    assert compare(exact, open_session(data).logits(x)).same_rows == 1
    assert compare(exact[:2], torch.from_numpy(reference_logits(model, x[:2]))).same_rows == 1
    coverage = audit(model, data)
    assert len(coverage.layers) == fact.layers
    assert all(FLOAT[layer.kind] in layer.reason for layer in coverage.fallbacks)
    assert torch.corrcoef(torch.stack([exact.flatten(), teacher.logits(x).flatten()]))[0, 1] > 0.9
