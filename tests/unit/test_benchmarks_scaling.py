"""``benchmarks/scaling.py``: the table."""

from types import ModuleType

import pytest
from support.benchmark_scripts import benchmark_script

pytestmark = pytest.mark.unit


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("scaling", monkeypatch)


def test_every_way_is_compared_with_the_first(scaling: ModuleType) -> None:
    taken = {
        scaling.Way(1, 1): {"synthesize": 30.0, "fit": 10.0},
        scaling.Way(2, 1): {"synthesize": 18.0, "fit": 7.0},
    }
    lines = scaling.table(taken).splitlines()
    assert lines[2] == "| 1 | 1 | 30.0 | 10.0 | 40.0 | 1.00 x |"
    assert lines[3] == "| 2 | 1 | 18.0 | 7.0 | 25.0 | 1.60 x |"
