"""Real architectures with random weights, from the module to a graph that ONNX Runtime runs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo.py"
    spec = importlib.util.spec_from_file_location("lrq_deploy_benchmark_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


zoo = _load()

SMALL = [
    "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:mobilenet_v3_small",
    "timm:lcnet_050",
    "transformers:RegNet?embedding_size=16&hidden_sizes=[16,32]&depths=[1,2]&groups_width=8",
]


def _check(name: str, size: int, bits: int = 8) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is an optional extra")
    if name.startswith("transformers:"):
        pytest.importorskip("transformers", reason="transformers is an optional extra")
    row = zoo.measure(name, size, bits)
    assert row.refusal == ""
    assert row.fold_error < 1e-3
    assert row.float_error < 1e-3
    assert row.layers > 10
    assert row.share > 0.99
    assert row.frozen_equal
    # More pixels mean more rounding ties, and random networks enlarge each: see docs/zoo.md.
    assert row.difference < 0.5
    assert row.same_rows >= 0.75 or size > 32


@pytest.mark.integration
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name: str) -> None:
    _check(name, 32)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:mobilenet_v2"])
def test_layers_read_narrow_copies_at_four_bits(name: str) -> None:
    _check(name, 32, bits=4)


@pytest.mark.integration
def test_a_network_without_batch_norm() -> None:
    _check("torchvision:squeezenet1_0", 64)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [n for n in zoo.NAMES if n not in SMALL])
def test_every_network_of_the_table(name: str) -> None:
    _check(name, zoo.SIZES.get(name, 96))
