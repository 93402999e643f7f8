"""Linear layers of INT4 weights in blocks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_networks import Mobile, placed

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, options_from
from lrq_deploy.errors import OptionError
from lrq_deploy.planning.survey import survey_layers
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import QuantizedLayer
from lrq_deploy.student.weight_only import BLOCK, WeightOnlyLayer

pytestmark = pytest.mark.unit


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99), st.floats(1e-4, 10.0))
def test_each_weight_is_near_its_integer(rows: int, blocks: int, seed: int, size: float) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, blocks * BLOCK, generator=random) * size
    layer = WeightOnlyLayer.of(weight, None)
    assert int(layer.stored_weight.abs().max()) <= 7
    scale = layer.scale_per_block.repeat_interleave(BLOCK, 1)
    error = (layer.real_weight() - weight).abs()
    inside = weight.abs() <= 7.5 * scale
    assert (error[inside] <= scale[inside] * 0.5001).all()


@settings(max_examples=20)
@given(st.integers(0, 99), st.floats(1.0, 4.0))
def test_each_block_has_the_clip_that_errs_least(seed: int, tail: float) -> None:
    normal = torch.randn(4, 3 * BLOCK, generator=torch.Generator().manual_seed(seed))
    weight = normal.abs() ** tail * normal.sign()
    layer = WeightOnlyLayer.of(weight, None)
    found = (layer.real_weight() - weight).square().unflatten(1, (-1, BLOCK)).sum(2)
    widest = weight.unflatten(1, (-1, BLOCK)).abs().amax(2)
    for clip in (1, 0.875, 0.75, 0.625, 0.5625):
        scale = (widest * clip / 7).repeat_interleave(BLOCK, 1)
        other = torch.round(weight / scale).clamp(-7, 7) * scale
        errors = (other - weight).square().unflatten(1, (-1, BLOCK)).sum(2)
        assert (found <= errors * 1.0001).all()


def test_a_block_of_zeros_stays_zero() -> None:
    layer = WeightOnlyLayer.of(torch.zeros(2, BLOCK), torch.ones(2))
    assert torch.equal(layer(torch.randn(3, BLOCK)), torch.ones(3, 2))


@pytest.mark.parametrize(("width", "kind"), [(64, WeightOnlyLayer), (40, QuantizedLayer)])
def test_only_rows_of_whole_blocks_are_packed(width: int, kind: type) -> None:
    student = placed(Mobile(width=width), Scheme(4, 8, int4_linear=True))
    assert isinstance(student.get_submodule("layers.head"), kind)
    facts = survey_layers(student, (3, 12, 12))[-1]
    assert facts.is_weight_only == (kind is WeightOnlyLayer)
    assert (facts.weight_bits, facts.is_float) == (4 if facts.is_weight_only else 8, False)


def test_what_cannot_be_is_refused_before_training(tmp_path: Path) -> None:
    flags = QuantizeFlags(bits=4, int4_linear=True)
    model = tmp_path / "model.pt"
    assert options_from(model, flags).scheme.describe() == "W4A4, edge 8, INT4 linear"
    for given_flags in (
        QuantizeFlags(bits=4, int4_linear=True, target="onnxruntime"),
        QuantizeFlags(bits=4, int4_linear=True, act_symmetry="asymmetric"),
    ):
        with pytest.raises(OptionError, match="is for TensorRT"):
            options_from(model, given_flags)
