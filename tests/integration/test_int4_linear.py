"""``--int4-linear`` from placement to bundle, parity ladder, audit and engine."""

import numpy as np
import onnx
import pytest
import torch
from support.bundles import agreeing_forms, bundle_of
from support.small_networks import CENTRED, SHAPE, Mobile, calibrated, images

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.measures.coverage import WEIGHT_ONLY, audit
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import weight_only_layers, weighted_layers

pytestmark = pytest.mark.integration

SCHEME = Scheme(4, 8, int4_linear=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    graph, table = freeze(calibrated(Mobile(width=64, classes=40), SCHEME, count=32))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 40, CENTRED, "mobile", "0" * 64)
    return bundle_of(model, tmp_path_factory.mktemp("int4") / "net")


def test_a_bundle_gives_the_student_back(bundle: Bundle) -> None:
    model = bundle.model()
    assert model.scheme == SCHEME
    assert list(weight_only_layers(model)) == ["layers.head"]
    assert list(weighted_layers(model))[-1] == "layers.head"
    head = weight_only_layers(model)["layers.head"]
    assert head.stored_weight.dtype == torch.int8
    assert tuple(head.scale_per_block.shape) == (40, 2)


@pytest.mark.parametrize("name", ["model.onnx", "model.tensorrt.onnx"])
def test_weights_are_stored_as_int4(bundle: Bundle, name: str) -> None:
    graph = onnx.load(bundle.file(name)).graph
    stored = next(x for x in graph.initializer if x.name == "layers.head.weight_int4")
    assert (stored.data_type, list(stored.dims)) == (onnx.TensorProto.INT4, [40, 64])
    packed = onnx.numpy_helper.to_array(stored).astype(np.int8)
    expected = weight_only_layers(bundle.model())["layers.head"].stored_weight.numpy()
    assert np.array_equal(packed, expected)


def test_every_form_agrees(bundle: Bundle) -> None:
    assert min(agreeing_forms(bundle, images(64))) >= 0.9


def test_the_audit_names_it_and_its_reason(bundle: Bundle) -> None:
    coverage = audit(bundle.model(), bundle.file("model.onnx"))
    assert [(x.name, x.reason) for x in coverage.fallbacks] == [("layers.head", WEIGHT_ONLY)]
    assert coverage.wanted_share == 1 > coverage.share


@pytest.mark.parametrize("fp16_rest", [False, True])
def test_an_engine_multiplies_int4_weights(bundle: Bundle, fp16_rest: bool) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from lrq_deploy.export.engine.build import build_engine
    from lrq_deploy.export.engine.from_bundle import with_half_rest
    from lrq_deploy.export.engine.log import audit_engine, read_layers
    from lrq_deploy.export.engine.options import EngineOptions

    graph = bundle.file("model.tensorrt.onnx").read_bytes()
    graph = with_half_rest(graph) if fp16_rest else graph
    built = build_engine(trt, graph, SHAPE, EngineOptions("tensorrt-rtx", sms=(86,)))
    fused = [layer for layer in read_layers(built.log) if "int4" in layer.constants]
    assert len(fused) == 1
    # In FP32 the product unpacks them itself; in FP16 a kernel before it does.
    assert fused[0].inputs[:1] == (() if fp16_rest else ("float",))
    coverage = audit_engine(bundle.model(), built.log)
    assert coverage is not None
    assert [(x.name, x.reason) for x in coverage.fallbacks] == [("layers.head", WEIGHT_ONLY)]
