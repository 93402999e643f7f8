"""The rung of the engine: why it cannot run here, and that it is compared where it can."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import residual_student

from lrq_deploy.export.bundle import Bundle
from lrq_deploy.export.engine import default_engine_path
from lrq_deploy.export.engine_run import EngineUnavailableError, open_engine
from lrq_deploy.export.ladder import climb
from lrq_deploy.export.simulation import exact_logits

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle_of(residual_student(8, 8, blocks=(1,)), tmp_path_factory.mktemp("e") / "net")


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
    assert ladder.rungs[-1].skipped.endswith("got no GPU that CUDA sees")
    ladder.require()


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_an_engine_is_held_against_the_exact_student(bundle: Bundle, factor: float) -> None:
    model = bundle.model()

    class Engine:
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
    assert rung.where == ("" if factor == 1 else "the logits")
