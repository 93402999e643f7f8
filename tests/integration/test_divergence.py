"""Losses that are not finite: what is kept, what is said, and that no bundle is written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.small_disk import largest_file
from support.small_networks import Residual, with_statistics
from support.tiny_run import TINY, tiny
from torch import nn

from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.errors import DivergenceError
from lrq_deploy.options import QuantizeOptions

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("rates", "stage", "term"),
    [
        ({"generator_rate": 1e38}, "generator", "statistics"),
        ({"weight_rate": float("inf")}, "student", "distillation"),
    ],
)
def test_divergence_keeps_the_last_good_state_and_no_bundle(
    digits_teacher: TrainedDigits,
    tmp_path: Path,
    rates: dict[str, float],
    stage: str,
    term: str,
) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(DivergenceError) as caught:
        tiny(digits_teacher, out, replace(TINY, **rates))  # type: ignore[arg-type]
    kept = tmp_path / "bundle.last-good.safetensors"
    assert stage in caught.value.rule
    assert term in caught.value.received
    assert str(kept) in caught.value.remedy
    assert list(tmp_path.iterdir()) == [kept]
    state = load_file(kept)
    assert len(state) > 5
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())


def test_divergence_is_told_also_where_the_disk_has_no_room_for_the_state(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    diverging = replace(TINY, generator_rate=1e38)
    with largest_file(4096), pytest.raises(DivergenceError, match="must be finite") as caught:
        tiny(digits_teacher, tmp_path / "bundle", diverging)
    assert "was kept, but could not be written: File too large" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_divergence_before_training_leaves_no_state_and_speaks_of_none(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 8 * 8, 5)
    ).eval()
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                layer.weight *= 1e25
    options = QuantizeOptions(
        Path("large"),
        tmp_path / "bundle",
        input_shape=(3, 12, 12),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        device="cpu",
        bench=False,
    )
    painted = replace(TINY, generator_steps=0, refinement_steps=0)
    with pytest.raises(DivergenceError, match="must be finite") as caught:
        quantize(options, network=network, settings=painted)
    assert "last-good" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_overflowing_logits_are_divergence(tmp_path: Path) -> None:
    network = with_statistics(Residual())
    with torch.no_grad():
        # Of all classes: a single one on all images is refused before any work.
        network.head.weight.fill_(3e38)
        network.head.bias.fill_(3e38)
    options = QuantizeOptions(
        Path("hot"), tmp_path / "bundle", input_shape=(3, 12, 12), device="cpu"
    )
    with pytest.raises(DivergenceError, match=r"generator.*classes (nan|inf)"):
        quantize(options, network=network, settings=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.last-good.safetensors"]
