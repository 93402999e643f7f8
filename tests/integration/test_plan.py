"""The plan against what really comes out: kernels, multiply-adds, sizes."""

import pytest
from support.small_networks import (
    CENTRED,
    SHAPE,
    ConvolutionHead,
    Residual,
    Shuffle,
    Upsampling,
    calibrated,
)
from torch import nn

from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.planning.survey import estimate_sizes, survey_layers, survey_quantizers
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.integration

SCHEME = Scheme(4, 4, 8)
# Names and attributes of a graph are estimated, and dominate networks as small as these.
SIZE_TOLERANCE = 0.25


@pytest.mark.parametrize(
    ("network", "floats"), [(Residual, 0), (Shuffle, 0), (Upsampling, 1), (ConvolutionHead, 1)]
)
def test_the_plan_is_what_the_exported_graph_does(network: type[nn.Module], floats: int) -> None:
    student = calibrated(network(), SCHEME)
    layers = survey_layers(student, SHAPE)
    sizes = estimate_sizes(layers, len(survey_quantizers(student)), 0)
    graph, table = freeze(calibrated(network(), SCHEME))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "net", "")
    exported = to_onnx(model, "onnxruntime").SerializeToString()
    found = audit(model, exported)
    forecast = OnnxRuntimeTarget()
    planned = [(f"layers.{x.name}", x.multiply_adds) for x in layers]
    assert planned == [(x.name, x.multiply_adds) for x in found.layers]
    integer = [forecast.execution(x, SCHEME).integer for x in layers]
    assert integer == [x.integer for x in found.layers]
    assert integer.count(False) == floats
    assert sizes.packed_bytes == pytest.approx(len(exported), rel=SIZE_TOLERANCE)
