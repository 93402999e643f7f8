"""``--depthwise float`` from placement to bundle, parity ladder and audit."""

from pathlib import Path

import pytest
import torch
from support.bundles import agreeing_forms, bundle_of
from support.small_networks import CENTRED, SHAPE, Mobile, calibrated, images

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.measures.coverage import KEPT_FLOAT, audit
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import weighted_layers

pytestmark = pytest.mark.integration

SCHEME = Scheme(4, 4, depthwise="float")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    graph, table = freeze(calibrated(Mobile(), SCHEME, count=32))
    model = QuantizedModel(graph, table, SCHEME, SHAPE, 5, CENTRED, "mobile", "0" * 64)
    return bundle_of(model, tmp_path_factory.mktemp("depthwise") / "net")


def test_a_bundle_gives_the_student_back(bundle: Bundle) -> None:
    model = bundle.model()
    assert model.scheme == SCHEME
    assert list(model.float_layers()) == ["layers.depthwise_0"]
    assert list(weighted_layers(model))[:2] == ["layers.stem_0", "layers.depthwise_0"]
    assert torch.isfinite(model.logits(images(4))).all()


def test_every_form_agrees(bundle: Bundle) -> None:
    # ONNX Runtime would round float weights to int8 where it could; see passes.float_layers.
    assert min(agreeing_forms(bundle, images(64))) >= 0.9


def test_the_audit_names_it_and_its_reason(bundle: Bundle) -> None:
    coverage = audit(bundle.model(), bundle.file("model.onnx"))
    assert [(x.name, x.reason) for x in coverage.fallbacks] == [("layers.depthwise_0", KEPT_FLOAT)]
    kept = 36 * 8 * 9
    total = sum(layer.multiply_adds for layer in coverage.layers)
    assert coverage.share == pytest.approx(1 - kept / total)
    assert coverage.wanted_share == 1


@pytest.mark.parametrize("fp16_rest", [False, True])
def test_an_engine_is_audited_the_same(bundle: Bundle, tmp_path: Path, fp16_rest: bool) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from lrq_deploy.export.engine.from_bundle import build_from_bundle
    from lrq_deploy.export.engine.options import EngineOptions

    options = EngineOptions("tensorrt-rtx", sms=(86,), fp16_rest=fp16_rest)
    result = build_from_bundle(bundle, options, tmp_path / "net.engine")
    assert result.record.fp16_rest == fp16_rest
    coverage = result.coverage
    assert coverage is not None
    assert [(x.name, x.reason) for x in coverage.fallbacks] == [("layers.depthwise_0", KEPT_FLOAT)]
