"""``benchmarks/cost.py``: the exponent, the table and the picture of a ladder."""

from types import ModuleType
from typing import Any

import pytest
from support.benchmark_scripts import benchmark_script

pytestmark = pytest.mark.unit


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("cost", monkeypatch)


def rows(power: float) -> list[dict[str, Any]]:
    """Steps whose seconds grow with a power of the work."""
    return [
        {
            "network": "net",
            "side": 32,
            "classes": 10,
            "parameters": 1_500_000,
            "multiply_adds": work,
            "seconds": {"generator": 1e-8 * work**power, "refinement": 0.1, "student": 1e-9 * work},
            "peak_mib": 1000.0,
        }
        for work in (10**7, 10**8, 10**9)
    ]


def test_the_exponent_is_that_of_the_growth(cost: ModuleType) -> None:
    assert cost.exponent(rows(1.5), "generator") == pytest.approx(1.5)
    assert cost.exponent(rows(1.5), "refinement") == pytest.approx(0)
    assert cost.exponent(rows(1.5), "student") == pytest.approx(1)


def test_the_table_states_every_rung_and_the_stages_behind(cost: ModuleType) -> None:
    finished = [{**rows(1)[0], "seconds": {"export": 1.25, "check": 2.0}}]
    text = cost.table(rows(1), finished, 2)
    assert "| net | 32 | 10 | 1.50 | 1,000 | 10,000 | 100 | 1,000 | 1,000 |" in text
    assert "generator 1.00, refinement 0.00, student 1.00" in text
    assert "| net | 32 | 1.2 | 2.0 | 1,000 |" in text
    assert "2 thread(s)" in text


def test_the_picture_shows_every_step(cost: ModuleType) -> None:
    image = cost.picture(rows(1))
    found = {colour for _, colour in image.getcolors(1 << 20)}
    assert {(20, 120, 90), (230, 150, 60), (60, 90, 200)} <= found


def test_rungs_have_names_of_their_own(cost: ModuleType) -> None:
    names = [rung.name for rung in cost.LADDER]
    assert len(set(names)) == len(names)
