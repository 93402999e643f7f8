"""Gates of ``validate`` on accuracy: a bundle holds no float network, so on what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lrq_deploy.errors import BoundError, OptionError
from lrq_deploy.wording import counted, printable

__all__ = ["AccuracyGates", "MaxDrop", "Measured", "MinAgreement"]

_LARGEST = 1e30

MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        metavar="POINTS",
        help="Fail if quantize measured a larger loss of accuracy, in percentage points, or none.",
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        "--min-agreement",
        metavar="0..1",
        help="Fail if quantize measured a smaller share of the float network's answers.",
    ),
]


@dataclass(frozen=True)
class Measured:
    """What ``quantize`` wrote of a student's accuracy; None and empty where it wrote nothing.

    Attributes:
        drop_points: accuracy lost on labelled images, in percentage points.
        agreement: share of the teacher's answers, 0..1.
        images: behind the figures, in words.
        headline: of the verdict.
        told: whether the figures tell what the student lost.
    """

    drop_points: float | None = None
    agreement: float | None = None
    images: str = ""
    headline: str = ""
    told: bool = True

    @staticmethod
    def of(metrics: Mapping[str, Any]) -> "Measured":
        """From the figures of a manifest; those of another type count as not written."""
        fidelity, verdict = (_table(metrics.get(name)) for name in ("fidelity", "verdict"))
        count = _number(fidelity.get("count"))
        made = "made " if metrics.get("images_source") == "synthetic" else ""
        return Measured(
            drop_points=_number(fidelity.get("drop_points")),
            agreement=_number(fidelity.get("agreement")),
            images="" if count is None else counted(int(count), f"{made}image"),
            headline=printable(verdict.get("headline", ""), 1000),
            told=verdict.get("told") is not False,
        )

    def describe(self) -> str:
        """What the verdict of ``quantize`` was, as a sentence."""
        said = f"quantize said: {self.headline}" if self.headline else "the bundle has no verdict"
        return f"Of accuracy this says nothing; {said}."


@dataclass(frozen=True)
class AccuracyGates:
    """What the measured accuracy must keep; None asks for nothing.

    Attributes:
        max_drop: percentage points on labelled images, 0 or more.
        min_agreement: share of the teacher's answers, 0..1.
    """

    max_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        # Comparisons the other way round would let NaN pass.
        if self.max_drop is not None and not self.max_drop >= 0:
            received = f"{self.max_drop:g}"
            raise OptionError("--max-drop must be 0 points or more", received, "pass --max-drop 1")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            received = f"{self.min_agreement:g}"
            raise OptionError("--min-agreement must be in 0..1", received, "pass for instance 0.97")

    def missed(self, measured: Measured) -> BoundError | None:
        """The gate that what was measured misses, if any; what was not measured misses all."""
        drop, agreement = measured.drop_points, measured.agreement
        if self.max_drop is not None and (drop is None or drop > self.max_drop):
            wanted = f"--max-drop allows a loss of {self.max_drop:g} points on labelled images"
            found = "no loss that was measured" if drop is None else f"{drop:.2f} points"
        elif self.min_agreement is not None and (
            agreement is None or not measured.told or agreement < self.min_agreement
        ):
            wanted = f"--min-agreement wants {100 * self.min_agreement:g} % of the same answers"
            found = (
                "no share that was measured" if agreement is None else f"{100 * agreement:.2f} %"
            )
            found += "" if measured.told else ", behind which the verdict cannot tell"
        else:
            return None
        on = f" on {measured.images}" if measured.images else ""
        return BoundError(
            wanted,
            f"{found}{on}",
            "quantize again, with --images for labelled ones and as its verdict advises, or allow "
            "more",
        )


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    # What no number can be is none either: NaN would miss no gate.
    fits = isinstance(value, int | float) and -_LARGEST <= value <= _LARGEST
    return float(value) if fits else None  # type: ignore[arg-type]
