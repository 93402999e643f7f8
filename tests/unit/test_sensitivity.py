"""The sensitivity table: its ranking and its file."""

import json

import pytest

from lrq_deploy.errors import BundleError
from lrq_deploy.sensitivity import (
    PROBED_WIDTHS,
    Damage,
    Kind,
    Sensitivity,
    SensitivityTable,
)

pytestmark = pytest.mark.unit


def entry(name: str, kls: tuple[float, ...], layers: tuple[str, ...] = ()) -> Sensitivity:
    damages = tuple(Damage(b, kl, 1 - kl, kl) for b, kl in zip(PROBED_WIDTHS, kls, strict=True))
    kind: Kind = "weight" if name.startswith("layers.") else "activation"
    return Sensitivity(name, kind, 10, layers, damages)


TABLE = SensitivityTable(
    "net",
    32,
    (
        entry("layers.a", (0.5, 0.1, 0.02, 0.0), ("layers.a",)),
        entry("layers.b", (0.4, 0.2, 0.01, 0.0), ("layers.b",)),
        entry("quantizers.x", (0.3, 0.1, 0.0, 0.0), ("layers.a",)),
    ),
)


def test_the_ranking_is_that_of_the_width() -> None:
    assert [e.name for e in TABLE.ranked("weight", 2)] == ["layers.a", "layers.b"]
    assert [e.name for e in TABLE.ranked("weight", 3)] == ["layers.b", "layers.a"]
    assert TABLE.to_json()["ranking"]["weight"]["3"] == ["layers.b", "layers.a"]
    assert TABLE.to_json()["ranking"]["activation"]["8"] == ["quantizers.x"]


def test_a_table_comes_back_from_its_json() -> None:
    assert SensitivityTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


def test_another_schema_is_refused() -> None:
    with pytest.raises(BundleError, match="schema_version must be 1; got 7"):
        SensitivityTable.from_json({**TABLE.to_json(), "schema_version": 7})
