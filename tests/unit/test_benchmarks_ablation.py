"""``benchmarks/ablation.py``: every variant changes something that exists, and the table."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from support.benchmark_scripts import benchmark_script

from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import MethodSwitches

pytestmark = pytest.mark.unit


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("ablation", monkeypatch)


def test_every_variant_but_the_first_differs_from_what_ships(ablation: ModuleType) -> None:
    shipped: tuple[MethodSwitches, RecipeSettings] = (MethodSwitches(), RecipeSettings())
    made = [
        (replace(shipped[0], **variant.switches), replace(shipped[1], **variant.settings))
        for variant in ablation.VARIANTS.values()
    ]
    assert made[0] == shipped
    assert all(made.count(variant) == 1 for variant in made)


def result(variant: str, seed: int, student: float) -> dict[str, Any]:
    free = {"agreement": 0.9, "kl": 0.05}
    return {
        "variant": variant,
        "seed": seed,
        "commit": "abc1234",
        "machine": "2 cores",
        "generator": {"angle": 0.5} if variant != "ranges only" else {},
        "seconds": 10.0,
        "seconds_saved": {"synthesize": 5.0},
        "teacher_accuracy": 92.0,
        "student_accuracy": student,
        "label_free": {"cifar10/train": free, "photos": free},
    }


def test_the_table_has_means_over_the_seeds_in_the_order_of_the_variants(
    ablation: ModuleType,
) -> None:
    rows = [
        result("ranges only", 0, 80.0),
        result("as shipped", 0, 90.0),
        result("as shipped", 1, 91.0),
    ]
    lines = ablation.table(rows).splitlines()
    assert lines[2] == "| as shipped | 0 1 | 1.50 | 90.00 | 0.0500 | 90.00 | 0.0500 | 28.6 | 15 |"
    assert lines[3] == "| ranges only | 0 | 12.00 | 90.00 | 0.0500 | 90.00 | 0.0500 | - | 15 |"
