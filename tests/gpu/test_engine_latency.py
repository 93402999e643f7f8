"""An engine is timed beside an FP16 engine."""

from pathlib import Path

import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy.export.engine.from_bundle import build_from_bundle, default_engine_path
from lrq_deploy.export.engine.latency import measure_engine
from lrq_deploy.export.engine.options import BatchProfile, EngineOptions
from lrq_deploy.export.engine.run import compute_capability
from lrq_deploy.export.measures.latency import BenchmarkOptions

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_an_engine_is_timed_at_the_sizes_that_it_takes(tmp_path: Path) -> None:
    bundle = bundle_of(residual_student(8, 8), tmp_path / "net")
    options = EngineOptions("tensorrt-rtx", (compute_capability(),), BatchProfile(2, 4, 8))
    build_from_bundle(bundle, options, default_engine_path(bundle, options.kind))
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1, 2, 8), runs=20))
    assert [batch.batch_size for batch in found.batches] == [2, 8]
    for batch in found.batches:
        for times in (batch.float_graph, batch.quantized):
            assert 0 < times.p50_ms <= times.p90_ms <= times.p99_ms
    assert found.gpu == torch.cuda.get_device_name()
    assert min(found.float_bytes, found.quantized_bytes) > 0
    assert min(found.float_memory_bytes, found.quantized_memory_bytes) > 0
    assert found.cuda_graph


def test_a_named_engine_is_timed(tmp_path: Path) -> None:
    bundle = bundle_of(residual_student(8, 8), tmp_path / "net")
    options = EngineOptions("tensorrt-rtx", (compute_capability(),))
    path = tmp_path / "named.engine"
    build_from_bundle(bundle, options, path)
    found = measure_engine(bundle, BenchmarkOptions(batch_sizes=(1,)), file=path)
    assert found.quantized_bytes == path.stat().st_size
