"""What two runs must share so that one may continue the other."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_networks import CENTRED, SHAPE, Mobile, with_statistics

from lrq_deploy.cli.job.run_identity import run_identity
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)


def test_what_only_the_network_tells_of_its_input_counts() -> None:
    options = QuantizeOptions(Path("model.pt"), Path("out"))
    teacher = make_teacher(with_statistics(Mobile()), SHAPE, CENTRED, "mobile", "0" * 64)
    settings = recipe_settings("fast", teacher.input_shape)

    def differing(other: Teacher, moved: QuantizeOptions = options) -> set[str]:
        first = run_identity(options, settings, teacher, CPU)
        second = run_identity(moved, settings, other, CPU)
        return {name for name in first if first[name] != second[name]}

    brighter = replace(teacher.preprocessing, mean=(0.1, 0.2, 0.3))
    assert differing(replace(teacher, preprocessing=brighter)) == {"input"}
    assert differing(replace(teacher, input_shape=(3, 40, 40))) == {"input"}
    assert differing(teacher, replace(options, out=Path("elsewhere"), force=True)) == set()
    assert differing(teacher, replace(options, seed=1)) == {"seed"}


def test_each_setting_of_the_recipe_has_its_name() -> None:
    options = QuantizeOptions(Path("model.pt"), Path("out"))
    teacher = make_teacher(with_statistics(Mobile()), SHAPE, CENTRED, "mobile", "0" * 64)
    fast, best = (recipe_settings(recipe, SHAPE) for recipe in ("fast", "best"))
    first, second = (run_identity(options, x, teacher, CPU) for x in (fast, best))
    differing = {name for name in first if first[name] != second[name]}
    changed = {f.name for f in fields(fast) if getattr(fast, f.name) != getattr(best, f.name)}
    assert differing == {f"settings.{name}" for name in changed} != set()


def test_the_type_of_the_device_counts_and_not_how_it_was_asked_for() -> None:
    teacher = make_teacher(with_statistics(Mobile()), SHAPE, CENTRED, "mobile", "0" * 64)
    settings = recipe_settings("fast", SHAPE)

    def device_of(asked: str, used: torch.device) -> object:
        options = QuantizeOptions(Path("model.pt"), Path("out"), device=asked)  # type: ignore[arg-type]
        return run_identity(options, settings, teacher, used)["device"]

    assert device_of("auto", CPU) == device_of("cpu", CPU) == "cpu"
    assert device_of("auto", CUDA) == device_of("cuda", torch.device("cuda", 0)) == "cuda"


def test_neither_another_torch_nor_another_number_of_processes_continues_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = QuantizeOptions(Path("model.pt"), Path("out"))
    teacher = make_teacher(with_statistics(Mobile()), SHAPE, CENTRED, "mobile", "0" * 64)
    settings = recipe_settings("fast", SHAPE)

    def differing(second: dict[str, Any]) -> set[str]:
        assert first.keys() == second.keys()
        return {name for name in first if first[name] != second[name]}

    first = run_identity(options, settings, teacher, CPU)
    assert differing(run_identity(options, settings, teacher, CPU, processes=1)) == set()
    assert differing(run_identity(options, settings, teacher, CPU, processes=2)) == {"processes"}
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    assert differing(run_identity(options, settings, teacher, CPU)) == {"torch"}
