"""The rung of the engine: why it cannot run here, and that it is compared where it can."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import bundle_of
from support.engine_files import write_engine_of
from support.fake_tensorrt import VERSION, FakeGpu, install
from support.frozen_graphs import residual_student

from lrq_deploy.errors import ExportError, OptionError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.engine import run as engine_run
from lrq_deploy.export.engine.file import sidecar_of
from lrq_deploy.export.engine.from_bundle import default_engine_path
from lrq_deploy.export.engine.options import EngineKind
from lrq_deploy.export.engine.run import (
    EngineSession,
    EngineUnavailableError,
    built_engines,
    load_engine,
    open_engine,
)
from lrq_deploy.export.parity.bounds import FLOAT_SUMS
from lrq_deploy.export.parity.ladder import climb
from lrq_deploy.export.parity.simulation import exact_logits

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(residual_student(8, 8, blocks=(1,)), tmp_path_factory.mktemp("e") / "net")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Iterator[FakeGpu]:
    """A GPU that runs what is written, and a bundle without engines behind it."""
    found = FakeGpu()
    install(monkeypatch, found)
    yield found
    for _, path in built_engines(bundle):
        path.unlink()
        sidecar_of(path).unlink(missing_ok=True)


def opened(bundle: Bundle, kind: EngineKind = "tensorrt-rtx") -> EngineSession:
    path = default_engine_path(bundle, kind)
    write_engine_of(bundle, path, kind)
    return open_engine(bundle)


def test_a_bundle_without_an_engine_says_so(bundle: Bundle) -> None:
    with pytest.raises(EngineUnavailableError, match="none beside"):
        open_engine(bundle)


def test_an_engine_left_beside_a_bundle_without_its_graph_is_named(tmp_path: Path) -> None:
    both = bundle_of(residual_student(8, 8, blocks=(1,)), tmp_path / "net")
    files = {name: file for name, file in both.manifest.files.items() if "tensorrt" not in name}
    bundle = replace(both, manifest=replace(both.manifest, files=files))
    path = default_engine_path(bundle, "tensorrt-rtx")
    path.write_bytes(b"an engine")
    with pytest.raises(EngineUnavailableError, match=f"{path}, which is of no graph"):
        open_engine(bundle)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_engine_without_a_gpu_is_skipped_with_the_reason(bundle: Bundle) -> None:
    path = default_engine_path(bundle, "tensorrt-rtx")
    path.write_bytes(b"an engine")
    images = torch.randn(4, *bundle.manifest.input_shape)
    ladder = climb(
        bundle.model(),
        bundle.file("model.onnx"),
        [images],
        reference_count=1,
        engine=lambda: open_engine(bundle),
    )
    path.unlink()
    assert ladder.rungs[-1].name == "engine"
    skipped = ladder.rungs[-1].skipped
    assert "got no GPU that CUDA sees; run this on the machine that has the GPU" in skipped
    ladder.require()


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_an_engine_is_held_against_the_exact_student(bundle: Bundle, factor: float) -> None:
    model = bundle.model()

    class Engine:
        remark = "built on another"

        def logits(self, images: torch.Tensor) -> torch.Tensor:
            return factor * exact_logits(model, images)

    loaded: list[Any] = []

    def load() -> Any:
        loaded.append(Engine())
        return loaded[-1]

    images = torch.randn(20, *model.input_shape).split(10)
    ladder = climb(model, bundle.file("model.onnx"), images, reference_count=1, engine=load)
    rung = ladder.rungs[-1]
    assert len(loaded) == 1
    assert rung.parity is not None
    assert (rung.parity.count, rung.passes) == (20, factor == 1)
    assert (rung.bound, rung.remark) == (FLOAT_SUMS, "built on another")
    assert rung.to_json()["remark"] == rung.remark
    assert rung.where == ("" if factor == 1 else "the logits")


def test_each_kind_beside_the_bundle_is_tried(bundle: Bundle, gpu: FakeGpu) -> None:
    first = default_engine_path(bundle, "tensorrt")
    first.write_bytes(b"an engine of trtexec, without a record")
    assert opened(bundle).record.kind == "tensorrt-rtx"
    sidecar_of(default_engine_path(bundle, "tensorrt-rtx")).unlink()
    with pytest.raises(EngineUnavailableError) as caught:
        open_engine(bundle)
    assert caught.value.received.count("must have its record beside it") == 2
    assert caught.value.remedy == "build the engine again with lrq-deploy build"


def test_an_engine_that_is_refused_keeps_its_remedy(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(kind: EngineKind, command: str | None) -> Any:
        raise OptionError("it needs the module", "none", "pip install the module")

    monkeypatch.setattr(engine_run, "load_builder", missing)
    with pytest.raises(EngineUnavailableError, match=r"none .it needs the module.; pip install"):
        opened(bundle)


def test_a_named_engine_is_the_one_that_runs(bundle: Bundle, gpu: FakeGpu, tmp_path: Path) -> None:
    opened(bundle)
    named = tmp_path / "named.engine"
    write_engine_of(bundle, named, "tensorrt", data=b"named")
    session = open_engine(bundle, named)
    assert (session.data, session.record.kind) == (b"named", "tensorrt")
    with pytest.raises(EngineUnavailableError, match=r"missing\.engine .*must be readable"):
        open_engine(bundle, tmp_path / "missing.engine")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compute_capabilities": (86,)}, "for 86, but 89 here .*again with lrq-deploy build {}"),
        ({"version": "1.6"}, f"for 1.6, but {VERSION} here .*"),
        ({"graph_sha256": "0"}, "must match the bundle's model.tensorrt.onnx"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "remedy"), [("tensorrt", "on this machine"), ("tensorrt-rtx", "--sm 89")]
)
def test_an_engine_for_something_else_is_not_run(
    bundle: Bundle,
    gpu: FakeGpu,
    changed: dict[str, Any],
    message: str,
    kind: EngineKind,
    remedy: str,
) -> None:
    write_engine_of(bundle, default_engine_path(bundle, kind), kind, **changed)
    with pytest.raises(EngineUnavailableError, match=message.format(remedy)):
        open_engine(bundle)


def test_another_gpu_of_the_same_capability_is_remarked(bundle: Bundle, gpu: FakeGpu) -> None:
    path = default_engine_path(bundle, "tensorrt")
    write_engine_of(bundle, path, "tensorrt", gpu="GPU 8")
    assert "built on GPU 8" in open_engine(bundle).remark
    gpu.name = "GPU 8"
    assert open_engine(bundle).remark == ""


def test_kernels_of_a_shape_are_there_before_its_first_run(bundle: Bundle, gpu: FakeGpu) -> None:
    session = opened(bundle)
    eager = {"dynamic_shapes_kernel_specialization_strategy": "eager"}
    assert (vars(gpu.configs[-1]), session.cuda_graph) == (eager, False)
    session = load_engine(session.trt, session.data, session.record, timed=True)
    graphs = {"cuda_graph_strategy": "whole"}
    assert (vars(gpu.configs[-1]), session.cuda_graph) == (eager | graphs, True)
    # TensorRT has neither; it is tried first.
    session = opened(bundle, "tensorrt")
    session = load_engine(session.trt, session.data, session.record, timed=True)
    assert (gpu.configs[-1], session.cuda_graph) == (None, False)


def test_tensorrt_for_rtx_has_these_settings() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    for name in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert hasattr(trt.IRuntimeConfig, name)
    assert hasattr(trt.ICudaEngine, "create_runtime_config")


def test_a_driver_that_is_too_old_is_named(bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.refused = {"Runtime"}
    with pytest.raises(EngineUnavailableError, match=r"driver version is insufficient.*-cu12"):
        opened(bundle)


def test_an_engine_that_does_not_load_says_why(bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.refused = {"deserialize_cuda_engine"}
    with pytest.raises(EngineUnavailableError, match="deserialize_cuda_engine says why"):
        opened(bundle)


def test_an_engine_without_room_says_so(bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.refused = {"create_execution_context"}
    with pytest.raises(ExportError, match=r"scratch memory.*context says why") as caught:
        opened(bundle)
    assert not isinstance(caught.value, EngineUnavailableError)


@pytest.mark.parametrize("call", ["set_input_shape", "set_tensor_address", "execute_async_v3"])
def test_a_run_that_fails_says_why(bundle: Bundle, gpu: FakeGpu, call: str) -> None:
    session = opened(bundle)
    images = torch.zeros(3, *bundle.manifest.input_shape)
    assert session.logits(images).shape == (3, 2)
    gpu.refused = {call}
    with pytest.raises(ExportError, match=rf"\(3, .*{call} says why"):
        session.logits(images)


def test_a_batch_without_room_says_so(bundle: Bundle, gpu: FakeGpu) -> None:
    session = opened(bundle)
    gpu.refused = {"memory"}
    with pytest.raises(ExportError, match=r"3 images: CUDA out of memory; .*smaller --batch"):
        session.logits(torch.zeros(3, *bundle.manifest.input_shape))
