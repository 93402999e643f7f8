"""``benchmarks/ablation.py``: every variant changes something that exists, and the table."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from support.benchmark_scripts import benchmark_script

from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.options import MethodSwitches, Recipe

pytestmark = pytest.mark.unit


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("ablation", monkeypatch)


@pytest.mark.parametrize("recipe", get_args(Recipe))
def test_every_variant_but_the_first_differs_from_what_ships(
    ablation: ModuleType, recipe: Recipe
) -> None:
    shipped = (MethodSwitches(), recipe_settings(recipe, (3, 32, 32)))
    made = [
        (replace(shipped[0], **variant.switches), replace(shipped[1], **variant.settings))
        for variant in ablation.VARIANTS.values()
    ]
    assert made[0] == shipped
    assert all(made.count(variant) == 1 for variant in made)


def test_a_variant_is_also_a_change_of_settings(ablation: ModuleType) -> None:
    assert ablation.variant("AMA off") is ablation.VARIANTS["AMA off"]
    changed = ablation.variant("weight_rate=3e-3,student_steps=800").settings
    assert changed == {"weight_rate": 3e-3, "student_steps": 800}
    assert isinstance(changed["student_steps"], int)


@pytest.mark.parametrize("name", ["AMA of", "weight_rat=1", "student_steps=8.5", "compiled=1", ""])
def test_a_variant_that_changes_nothing_is_refused(ablation: ModuleType, name: str) -> None:
    with pytest.raises(SystemExit, match="FIELD=VALUE"):
        ablation.variant(name)


def test_networks_and_settings_are_those_of_the_accuracy_benchmark(
    ablation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--networks=vgg", "--models=there", "--setting=w2a4", "--seeds=3", "--no-accuracy"]
    monkeypatch.setattr("sys.argv", ["ablation.py", "--variant=as shipped", *flags])
    options = ablation._quantize_options(ablation._options())
    assert options.model == Path("there/vgg.pt")
    assert options.arch.endswith("family_networks.py:vgg")
    assert (options.scheme.weight_bits, options.scheme.act_bits) == (2, 4)
    assert (options.seed, options.images) == (3, None)


def test_runs_beside_each_other_write_to_bundles_of_their_own(
    ablation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["--networks=resnet32", "--setting=w8a8", "--recipe=best", "--seeds=1"]
    written = []
    for change in ["--networks=resnet20", *changes, "--variant=AMA off"]:
        monkeypatch.setattr("sys.argv", ["ablation.py", "--variant=as shipped", change])
        written.append(ablation._quantize_options(ablation._options()).out)
    assert len(set(written)) == len(written)


def result(variant: str, seed: int, student: float) -> dict[str, Any]:
    free = {"agreement": 0.9, "kl": 0.05}
    return {
        "variant": variant,
        "network": "resnet20",
        "setting": "w4a4",
        "recipe": "fast",
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
        result("weight_rate=3e-3", 0, 70.0),
        result("ranges only", 0, 80.0),
        result("as shipped", 0, 90.0),
        result("as shipped", 1, 91.0),
    ]
    lines = ablation.table(rows).splitlines()
    same = "90.00 | 0.0500 | 90.00 | 0.0500"
    assert lines[2:5] == [
        f"| resnet20 | w4a4 | fast | as shipped | 0 1 | 1.50 | {same} | 28.6 | 15 |",
        f"| resnet20 | w4a4 | fast | ranges only | 0 | 12.00 | {same} | - | 15 |",
        f"| resnet20 | w4a4 | fast | weight_rate=3e-3 | 0 | 22.00 | {same} | 28.6 | 15 |",
    ]
