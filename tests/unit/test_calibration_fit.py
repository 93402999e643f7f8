"""What a fit is given reaches each of its stages."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.contexts import ON_CPU
from support.small_networks import Residual, calibrated, images, placed, quantizers
from torch import Tensor, fx, nn

from lrq_deploy.calibration.fit import _align, fit_student
from lrq_deploy.errors import UnsupportedNetworkError
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import MethodSwitches
from lrq_deploy.ranks import Ranks
from lrq_deploy.scheme import ActSymmetry, IntegerRange, Scheme
from lrq_deploy.synthetic import SyntheticSet

pytestmark = pytest.mark.unit

POOL = images(32)
ALONE = RecipeSettings(student_steps=0, batch_size=16)


def fitted(settings: RecipeSettings, overlays: Tensor) -> Tensor:
    student = calibrated(Residual(), Scheme(3, 3, 8), count=16)
    fit(student, settings, overlays)
    return torch.cat([p.detach().flatten() for p in student.parameters()])


def fit(student: fx.GraphModule, settings: RecipeSettings, overlays: Tensor) -> dict[str, float]:
    synthetic = SyntheticSet(POOL, overlays, POOL[:0], {})
    return fit_student(
        student, synthetic, settings, MethodSwitches(margin="off"), True, "multiclass", ON_CPU
    )


@pytest.mark.parametrize("stage", ["block_steps", "student_steps"])
def test_overlays_reach_each_stage_but_the_ranges(stage: str) -> None:
    settings = replace(ALONE, **{stage: 2})  # type: ignore[arg-type]
    plain, again, blended = (fitted(settings, x) for x in (POOL[:0], POOL[:0], 3 * POOL[:4]))
    assert torch.equal(plain, again)
    assert not torch.equal(plain, blended)
    ranges = [fitted(ALONE, x) for x in (POOL[:0], 3 * POOL[:4])]
    assert torch.equal(*ranges)


class FloatDepthwise(nn.Module):
    """Nothing but a depthwise layer and a linear one, which may both stay float."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.deep = nn.Conv2d(3, 6, 3, groups=3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.deep(self.norm(x)).relu().mean((2, 3)))
        return logits


class OnlyHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 12 * 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    ("make", "option"),
    [(FloatDepthwise, {"depthwise": "float"}), (OnlyHead, {"int4_linear": True})],
)
def test_a_student_of_float_layers_ends_with_its_ranges(
    make: type[nn.Module], option: dict[str, Any], bits: int
) -> None:
    scheme = Scheme(bits, bits, 8, **option)
    student = placed(make(), scheme)
    settings = replace(ALONE, block_steps=2, student_steps=2)
    metrics = fit(student, settings, POOL[:0])
    assert all(math.isfinite(value) for value in metrics.values())
    learns = any(p.requires_grad and p.grad is not None for p in student.parameters())
    assert bool(metrics) == learns


def test_ranges_are_clipped_where_a_search_is_asked_for_and_free_where_zero_points_are() -> None:
    found = {}
    for symmetric in (True, False):
        for search in (True, False):
            symmetry: ActSymmetry = "symmetric" if symmetric else "asymmetric"
            student = placed(Residual(), Scheme(4, 4, 4, None, symmetry))
            switches = MethodSwitches(margin="off", range_search=search)
            synthetic = SyntheticSet(POOL, POOL[:0], POOL[:0], {})
            fit_student(student, synthetic, ALONE, switches, symmetric, "multiclass", ON_CPU)
            parts = quantizers(student).values()
            found[symmetric, search] = sum(float(q.scale.detach()) for q in parts)
            assert any(q.zero_point for q in parts) != symmetric
    assert found[True, True] < 0.95 * found[True, False]
    assert found[False, True] < 0.95 * found[False, False]


class SecondRank(Ranks):
    """Its first rank has found other ranges."""

    def align(self, module: nn.Module) -> None:
        """Scales agree already."""

    def on_first(self, work: Callable[[], Any]) -> Any:
        return [(zero_point + 1, IntegerRange(-3, 9)) for zero_point, _ in work()]


def test_integer_ranges_are_those_of_the_first_rank() -> None:
    student = calibrated(Residual(), Scheme(4, 4, 8, act_symmetry="asymmetric"))
    before = {name: q.zero_point for name, q in quantizers(student).items()}
    _align(student, SecondRank())
    for name, quantizer in quantizers(student).items():
        assert quantizer.zero_point == before[name] + 1
        assert quantizer.bounds == IntegerRange(-3, 9)


class Quotient(nn.Module):
    """Divides 0 by a number that 8 bits round to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        logits: Tensor = self.head((x / torch.relu(x + 1e-4)).mean((2, 3)))
        return logits


def test_what_rounding_leaves_no_number_is_refused_before_anything_is_trained() -> None:
    student = placed(Quotient(), Scheme(4, 4, 8))
    with pytest.raises(UnsupportedNetworkError, match="must stay finite"):
        fit(student, ALONE, POOL[:0])
