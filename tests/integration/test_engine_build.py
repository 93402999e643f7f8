"""Real builds with TensorRT for RTX, which needs no GPU to compile."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import mobile_student, residual_student
from typer.testing import CliRunner

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.cli.main import app
from lrq_deploy.errors import BundleError, ExportError, LrqError, OptionError, OutputError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.engine.build import build_engine
from lrq_deploy.export.engine.file import check_runtime, read_engine
from lrq_deploy.export.engine.from_bundle import build_from_bundle, default_engine_path
from lrq_deploy.export.engine.latency import half_graph
from lrq_deploy.export.engine.log import audit_engine
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.integration

AMPERE = EngineOptions("tensorrt-rtx", sms=(86,))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(residual_student(4, 4), tmp_path_factory.mktemp("bundle") / "net")


def test_every_layer_of_a_residual_network_runs_in_int8(bundle: Bundle, tmp_path: Path) -> None:
    options = EngineOptions("tensorrt-rtx", (86, 120), BatchProfile(1, 4, 16), workspace_mib=256)
    result = build_from_bundle(bundle, options, tmp_path / "net.engine")
    assert result.coverage is not None
    assert result.coverage.fallbacks == ()
    assert len(result.coverage.layers) == 8
    sha256 = bundle.manifest.files["model.tensorrt.onnx"].sha256
    data, record = read_engine(result.path, "tensorrt-rtx", sha256)
    check_runtime(record, trt.__version__, 120)
    assert record == result.record
    assert (record.batch, record.workspace_mib) == ((1, 4, 16), 256)
    assert (record.gpu, record.tf32) == ("", False)
    assert len(data) == record.engine.size_bytes > 0
    with pytest.raises(BundleError, match="the GPU"):
        check_runtime(record, trt.__version__, 89)


@pytest.mark.parametrize("bits", [8, 2])
def test_depthwise_gates_and_pooling_compile(bits: int, tmp_path: Path) -> None:
    model = mobile_student(bits, bits, asymmetric=False)
    bundle = bundle_of(model, tmp_path / "net")
    coverage = build_from_bundle(bundle, AMPERE, tmp_path / "net.engine").coverage
    assert coverage is not None
    assert coverage.fallbacks == ()


def test_the_engine_that_bench_compares_with_compiles(bundle: Bundle) -> None:
    built = build_engine(trt, half_graph(bundle.model()), bundle.manifest.input_shape, AMPERE)
    assert built.data


def test_uint8_read_as_int8_is_an_error(bundle: Bundle) -> None:
    graph = bundle.file("model.onnx").read_bytes()
    with pytest.raises(ExportError, match=r"parser's warning: .*UINT8"):
        build_engine(trt, graph, bundle.manifest.input_shape, AMPERE)


def test_a_damaged_graph_is_refused(bundle: Bundle) -> None:
    graph = bundle.file("model.tensorrt.onnx").read_bytes()[:-100]
    with pytest.raises(ExportError, match="must accept the graph"):
        build_engine(trt, graph, bundle.manifest.input_shape, AMPERE)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (EngineOptions("tensorrt-rtx", sms=(99,)), OptionError, "choose from 80,86,"),
        (EngineOptions("tensorrt-rtx", sms=(86, 75)), OptionError, "75 .Turing.*from 80,86,"),
        (EngineOptions("tensorrt-rtx", (86,), workspace_mib=1), ExportError, "larger --workspace"),
    ],
)
def test_a_refused_build_writes_nothing(
    bundle: Bundle, tmp_path: Path, options: EngineOptions, kind: type[LrqError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        build_from_bundle(bundle, options, tmp_path / "net.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_is_too_small_is_not_a_full_gpu() -> None:
    graph = to_onnx(untrained_resnet18(Scheme(8, 8)), "tensorrt").SerializeToString()
    options = EngineOptions("tensorrt-rtx", (86,), workspace_mib=1)
    with pytest.raises(ExportError, match="larger --workspace than 1, or none") as caught:
        build_engine(trt, graph, (3, 64, 64), options)
    assert "GPU" not in caught.value.rule


@pytest.mark.parametrize("fp16_rest", [False, True])
def test_tf32_is_off_where_the_rest_is_fp32(
    bundle: Bundle, fp16_rest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, found = trt.Builder.build_serialized_network, []

    def asked(builder: object, network: object, config: Any) -> object:
        found.append(config.get_flag(trt.BuilderFlag.TF32))
        return build(builder, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", asked)
    graph = bundle.file("model.tensorrt.onnx").read_bytes()
    options = replace(AMPERE, fp16_rest=fp16_rest)
    assert build_engine(trt, graph, bundle.manifest.input_shape, options).data
    assert found == [fp16_rest]


def test_asymmetric_bundles_have_no_graph_for_it(tmp_path: Path) -> None:
    model = replace(mobile_student(8, 8), scheme=Scheme(act_symmetry="asymmetric"))
    asymmetric = bundle_of(model, tmp_path / "net")
    assert "model.tensorrt.onnx" not in asymmetric.manifest.files
    with pytest.raises(BundleError, match=r"zero points of 0.*--act-symmetry symmetric"):
        build_from_bundle(asymmetric, AMPERE, tmp_path / "net.engine")


def test_the_command_builds_beside_the_bundle(bundle: Bundle) -> None:
    arguments = ["build", str(bundle.path), "--engine", "tensorrt-rtx", "--sm", "89", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    document = json.loads(done.output)
    engine = default_engine_path(bundle, AMPERE.kind)
    assert document["path"] == str(engine)
    assert document["compute_capabilities"] == [89]
    assert document["audit"]["integer_layer_share"] == 1.0
    with pytest.raises(OutputError, match="must not exist"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_convolution_of_resnet18_runs_in_int8(bits: int) -> None:
    model = untrained_resnet18(Scheme(bits, bits))
    graph = to_onnx(model, "tensorrt").SerializeToString()
    built = build_engine(trt, graph, model.input_shape, EngineOptions("tensorrt-rtx"))
    coverage = audit_engine(model, built.log)
    assert coverage is not None
    assert len(coverage.layers) == 21
    assert coverage.fallbacks == ()
    # Max-pooling too: it is read by a convolution and by an addition, and computed once.
    assert set(coverage.float_operators) <= {"kgen"}


def untrained_resnet18(scheme: Scheme) -> QuantizedModel:
    """The types of an engine depend on the graph, not on the values of its weights."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    shape = (3, 64, 64)
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3)
    teacher = make_teacher(resnet18(weights=None).eval(), shape, preprocessing, "r", "0" * 64)
    student = place_quantizers(fold_batch_norm(teacher.graph), scheme, PORTABLE, preprocessing)
    calibrate(student, torch.rand(4, *shape) * 4 - 2, True, 0)
    graph, table = freeze(student)
    return QuantizedModel(
        graph, table, scheme, shape, teacher.num_classes, preprocessing, "r", "0" * 64
    )
