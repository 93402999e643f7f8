"""Gates on the accuracy that a bundle's manifest states."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from support.checked_runs import checked, fidelity

from lrq_deploy.cli.flags.accuracy_gates import AccuracyGates, Measured
from lrq_deploy.cli.job.verdict import judge
from lrq_deploy.errors import BoundError, OptionError
from lrq_deploy.export.measures.labelling import AtChance

pytestmark = pytest.mark.unit


def measured(source: str = "folder", **changes: Any) -> Measured:
    """What a manifest states of a run with such a student."""
    found = checked(source=source, **changes)
    metrics = {
        "fidelity": found.fidelity.to_json(),
        "verdict": judge(found, 520, 100).to_json(),
        "images_source": source,
    }
    return Measured.of(json.loads(json.dumps(metrics)))


LABELLED = measured(fidelity=fidelity(0.96, 0.92, 0.905))
PLAIN = measured(fidelity=fidelity(0.96))
BLIND = measured(fidelity=replace(fidelity(1.0), at_chance=AtChance(0.1, 0.1, 1000)))


@pytest.mark.parametrize(
    ("gates", "found", "received"),
    [
        (AccuracyGates(), Measured(), None),
        (AccuracyGates(max_drop=1.5001), LABELLED, None),
        (AccuracyGates(max_drop=1), LABELLED, "1.50 points on 1,000 images"),
        (AccuracyGates(max_drop=100), PLAIN, "no loss that was measured on 1,000 images"),
        (AccuracyGates(max_drop=1), Measured(), "no loss that was measured"),
        (AccuracyGates(min_agreement=0.96), PLAIN, None),
        (AccuracyGates(min_agreement=0.961), PLAIN, "96.00 % on 1,000 images"),
        (AccuracyGates(min_agreement=0), Measured(), "no share that was measured"),
        (
            AccuracyGates(min_agreement=0.9),
            BLIND,
            "100.00 %, behind which the verdict cannot tell on 1,000 images",
        ),
        (AccuracyGates(1.6, 0.961), LABELLED, "96.00 % on 1,000 images"),
    ],
)
def test_what_misses_a_gate(gates: AccuracyGates, found: Measured, received: str | None) -> None:
    missed = gates.missed(found)
    assert (missed.received if missed else None) == received
    assert missed is None or isinstance(missed, BoundError)


def test_figures_on_made_images_are_called_so() -> None:
    found = measured("synthetic", fidelity=fidelity(0.9))
    missed = AccuracyGates(min_agreement=0.95).missed(found)
    assert missed is not None
    assert missed.received == "90.00 % on 1,000 made images"


@pytest.mark.parametrize("values", [(-1, None), (float("nan"), None), (None, 1.1), (None, -0.1)])
def test_gates_out_of_range_are_refused(values: tuple[float | None, float | None]) -> None:
    with pytest.raises(OptionError, match="must be"):
        AccuracyGates(*values)


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"fidelity": 3, "verdict": []},
        {"fidelity": {"count": "x"}},
        {"fidelity": {"drop_points": float("nan"), "agreement": 10**400}},
    ],
)
def test_a_manifest_may_state_nothing(metrics: dict[str, Any]) -> None:
    assert asdict(Measured.of(metrics)) == asdict(Measured())
    assert Measured.of(metrics).describe() == (
        "Of accuracy this says nothing; the bundle has no verdict."
    )


def test_the_verdict_is_repeated() -> None:
    good = measured(fidelity=fidelity(0.99))
    assert good.describe() == "Of accuracy this says nothing; quantize said: SHIP IT."
    assert "quantize said: CANNOT TELL." in BLIND.describe()
