"""The sensitivity table: its ranking and its file."""

import json

import pytest

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


def test_the_file_holds_the_schema_and_every_entry() -> None:
    document = json.loads(json.dumps(TABLE.to_json()))
    assert (document["schema_version"], document["network"], document["images"]) == (1, "net", 32)
    assert [entry["name"] for entry in document["entries"]] == [e.name for e in TABLE.entries]
    assert document["entries"][0]["damages"][0] == {
        "bits": 2,
        "kl": 0.5,
        "agreement": 0.5,
        "drop_points": 0.5,
    }
