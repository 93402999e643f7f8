"""``benchmarks/on_gpu.py``: its rows and its table."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.benchmark_scripts import benchmark_script

pytestmark = pytest.mark.unit

RESULT: dict[str, Any] = {
    "seconds": 83.24,
    "stage_seconds": {"synthesize": 25.7, "fit": 37.7},
    "agreement": 95.68,
    "agreement_interval": [95.1, 96.2],
    "teacher_accuracy": 87.98,
    "student_accuracy": 87.2,
    "peak_cuda_memory_mib": 1234.5,
}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("on_gpu", monkeypatch)


def test_the_table_has_every_stage_of_every_row(on_gpu: ModuleType) -> None:
    bare = {
        **RESULT,
        "stage_seconds": {"load": 2.0},
        "teacher_accuracy": None,
        "student_accuracy": None,
        "peak_cuda_memory_mib": None,
    }
    assert on_gpu.table({"a": RESULT, "b": bare}).splitlines() == [
        "| run | seconds | synthesize | fit | load | same answer | drop | GPU MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| a | 83.2 | 25.7 | 37.7 | - | 95.68 % (95.1 to 96.2) | 0.78 | 1,234 |",
        "| b | 83.2 | - | - | 2.0 | 95.68 % (95.1 to 96.2) | - | - |",
    ]


def test_a_network_that_is_made_here_loads_by_its_flags(on_gpu: ModuleType, tmp_path: Path) -> None:
    from lrq_deploy.loading import load_model
    from lrq_deploy.options import QuantizeOptions

    path, arch, shape = on_gpu._model("resnet18", tmp_path)
    assert shape == "--input-shape=3,224,224"
    arch = arch.removeprefix("--arch=")
    options = QuantizeOptions(
        model=Path(path), arch=arch, input_shape=(3, 224, 224), out=tmp_path / "bundle"
    )
    assert load_model(options).name == "resnet18"
