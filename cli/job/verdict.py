"""Whether to ship: stated limits, one sentence, and what to run next."""

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, command_line
from lrq_deploy.cli.job.checking import Checked
from lrq_deploy.cli.job.sizes import size_change, wider_in_same_room
from lrq_deploy.export.measures.accuracy import Fidelity
from lrq_deploy.export.measures.latency import Benchmark
from lrq_deploy.method.images.normalisation import PixelCheck, normalisation_flags
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import MIN_BITS
from lrq_deploy.teacher import Preprocessing
from lrq_deploy.wording import counted

__all__ = [
    "MAX_DROP_POINTS",
    "MIN_AGREEMENT",
    "MIN_INTEGER_SHARE",
    "MIN_SYNTHETIC_AGREEMENT",
    "Verdict",
    "judge",
    "limit_in_doubt",
    "next_commands",
]

MAX_DROP_POINTS = 2.0
"""Accuracy that may be lost on labelled images, in percentage points."""

MIN_AGREEMENT = 0.95
"""Share of the same answers as the teacher, where there are no labels; for ``--task multilabel``
also the F1 of the yes answers, because most labels are a no."""

MIN_SYNTHETIC_AGREEMENT = 0.8
"""The same on synthetic images, half of which are painted and harder than data: there 80 % tell
broken students, not how good others are (measured, docs/decisions.md)."""

MIN_INTEGER_SHARE = 0.95
"""Share of the multiply-adds that must run in integers, of layers that are not kept in float."""

DECIDING_RUNGS = frozenset({"reference", "onnxruntime-all"})
"""Forms that must be within their bounds: what ships, and what shows that it is right. The
others are settled by ``validate``, on more images than a run can spare."""


@dataclass(frozen=True)
class Verdict:
    """Whether to ship.

    Attributes:
        ship: whether every limit is kept.
        accurate: whether those of accuracy are, as far as what was measured tells.
        told: whether it tells what the student lost.
        headline: the answer, with what it hangs on.
        sentence: the figures that say so, in one line.
    """

    ship: bool
    accurate: bool
    told: bool
    headline: str
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the limits."""
        limits = {
            "max_drop_points": MAX_DROP_POINTS,
            "min_agreement": MIN_AGREEMENT,
            "min_synthetic_agreement": MIN_SYNTHETIC_AGREEMENT,
            "min_integer_share": MIN_INTEGER_SHARE,
        }
        return {**asdict(self), "limits": limits}


_UNDOUBTED = PixelCheck()


def judge(
    checked: Checked,
    float_bytes: int,
    student_bytes: int,
    refused: tuple[str, ...] = (),
    pixels: PixelCheck = _UNDOUBTED,
) -> Verdict:
    """Whether to ship, and the sentence that says why.

    Latency is stated and decides nothing alone: it belongs to this machine and its load. What was
    measured decides, not the interval behind it; the headline says where that holds the limit. A
    student is not judged by a teacher that guesses, nor behind pixels that nobody stated and that
    contradict the first BatchNorm.

    Args:
        checked: what was measured.
        float_bytes: size of the teacher's weights as float32.
        student_bytes: size of ``model.onnx``.
        refused: a sentence per runtime that cannot run the student.
        pixels: what the first BatchNorm has against them.
    """
    accurate, accuracy = _accuracy(checked.fidelity, checked.source)
    blind = _blind(checked.fidelity, pixels)
    gains = _gains(checked.benchmark, float_bytes, student_bytes)
    sound = gains and checked.coverage.wanted_share >= MIN_INTEGER_SHARE
    sound &= DECIDING_RUNGS.isdisjoint(rung.name for rung in checked.ladder.failures)
    said = _sentence(checked, accuracy, size_change(float_bytes, student_bytes))
    if blind:
        said = f"{blind}. The student {said.removeprefix('it ')}"
    idle = () if gains else ("slower and larger than the float network, it gains nothing",)
    more = [f"{text[0].upper()}{text[1:]}." for text in (*refused, *idle)]
    ship = accurate and sound and not blind
    return Verdict(
        ship=ship,
        accurate=accurate and not blind,
        told=not blind,
        headline=_headline(ship, sound, blind, checked, pixels),
        sentence=" ".join([said, *more]),
    )


def _headline(ship: bool, sound: bool, blind: str, checked: Checked, pixels: PixelCheck) -> str:
    if blind and sound:
        return "CANNOT TELL"
    hangs_on = []
    if sound and limit_in_doubt(checked):
        count = checked.fidelity.labelled or checked.fidelity.count
        hangs_on.append(f"on {counted(count, 'image')} that cannot decide")
    if ship and pixels.contradicted:
        hangs_on.append("if --mean and --std are right")
    return ", ".join(["SHIP IT" if ship else "DO NOT SHIP", *hangs_on])


def _blind(fidelity: Fidelity, pixels: PixelCheck) -> str:
    """Why nothing that was measured tells what the student lost, as a sentence; or nothing."""
    if fidelity.at_chance is not None:
        return fidelity.at_chance.describe()
    if pixels.contradicted and not pixels.stated and pixels.fitting is not None:
        return (
            "nobody said how pixels are normalised, and the first BatchNorm of the network fits "
            f"{normalisation_flags(pixels.fitting)}, not 0..1"
        )
    return ""


def _gains(benchmark: Benchmark | None, float_bytes: int, student_bytes: int) -> bool:
    """Whether the student is smaller, or as fast as the float network, as far as is known."""
    return student_bytes <= float_bytes or benchmark is None or benchmark.worst_ratio <= 1


def limit_in_doubt(checked: Checked) -> bool:
    """Whether the interval of what decides on accuracy holds its limit."""
    fidelity = checked.fidelity
    if fidelity.drop_interval is not None:
        (low, high), limit = fidelity.drop_interval, MAX_DROP_POINTS
    else:
        (low, high), limit = fidelity.agreement_interval, _agreement_limit(checked.source)
    return low < limit < high


def _agreement_limit(source: str) -> float:
    return MIN_AGREEMENT if source == "folder" else MIN_SYNTHETIC_AGREEMENT


def _sentence(checked: Checked, accuracy: str, size: str) -> str:
    parts = [
        f"{accuracy}, runs {100 * checked.coverage.share:.1f} % in integers",
        *([] if checked.benchmark is None else [_latency(checked.benchmark)]),
        f"is {size}",
        _parity(checked),
    ]
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."


def _accuracy(fidelity: Fidelity, source: str) -> tuple[bool, str]:
    drop, interval = fidelity.drop_points, fidelity.drop_interval
    if drop is not None and interval is not None:
        low, high = interval if drop >= 0 else (-interval[1], -interval[0])
        return drop <= MAX_DROP_POINTS, (
            f"it {'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} points ({low:.1f} to "
            f"{high:.1f}) on {counted(fidelity.labelled, 'labelled image')} "
            f"(limit {MAX_DROP_POINTS:g})"
        )
    limit = _agreement_limit(source)
    low, high = fidelity.agreement_interval
    share = f"{100 * fidelity.agreement:.2f} % ({100 * low:.1f} to {100 * high:.1f})"
    images = counted(fidelity.count, "image")
    kind = "your images" if source == "folder" else "synthetic and harder than data"
    if fidelity.labels is not None:
        return min(fidelity.agreement, fidelity.labels.f1) >= limit, (
            f"it answers {share} of the labels of {images} like the teacher, {kind}, "
            f"F1 of the yes answers {100 * fidelity.labels.f1:.2f} % (limit of both "
            f"{100 * limit:g} %)"
        )
    return fidelity.agreement >= limit, (
        f"it answers like the teacher on {share} of {images}, {kind} (limit {100 * limit:g} %)"
    )


def _latency(benchmark: Benchmark) -> str:
    ratio = benchmark.worst_ratio
    here = "here, on one thread"
    if ratio > 1:
        return f"but takes {ratio:.2f} x the time of the float network {here}"
    return f"takes {ratio:.2f} of the time of the float network {here}"


def _parity(checked: Checked) -> str:
    said = f"ONNX Runtime repeats {100 * checked.parity.same_top1:.2f} % of its answers"
    failures = [rung.title for rung in checked.ladder.failures]
    return f"{said}, but look at {', '.join(failures)} with validate" if failures else said


def next_commands(
    options: QuantizeOptions,
    flags: QuantizeFlags,
    ship: bool,
    accurate: bool,
    told: bool = True,
    fitting: Preprocessing | None = None,
    default_method: str = "lrq",
) -> tuple[str, ...]:
    """Command lines to run next: check the bundle closer, or the cheapest ways to a better one.

    Args:
        options: of the run.
        flags: that they were made from; another run has the same, but for what it tries.
        ship: whether the bundle is good enough.
        accurate: whether its accuracy is; what there is to try moves nothing else.
        told: whether what was measured tells that; if not, the network is to be read otherwise.
        fitting: how pixels should be normalised instead, where that is known.
        default_method: what the network gets without ``--method``.
    """
    bundle = str(options.out)
    images = [] if options.images is None else ["--images", str(options.images)]
    validate = shlex.join(["lrq-deploy", "validate", bundle, *images])
    first = [validate, shlex.join(["lrq-deploy", "bench", bundle])] if ship else [validate]
    # Neither what is kept of this run nor leave to overwrite is meant for another folder.
    again = replace(flags, resume=None, force=None)
    tries: list[tuple[str, QuantizeFlags]] = []
    if fitting is not None:
        tries.append(("pixels", replace(again, mean=fitting.mean, std=fitting.std)))
    elif not told:
        # It shows the names of the classes, where any are stated.
        first = [shlex.join(["lrq-deploy", "inspect", str(options.model)]), validate]
    if told and not ship and not accurate:
        tries += _tries(options, again, default_method)
    more = (
        command_line(options.model, replace(changed, out=Path(f"{bundle}-{suffix}")))
        for suffix, changed in tries
    )
    return (*first, *more)


def _tries(
    options: QuantizeOptions, again: QuantizeFlags, default_method: str
) -> list[tuple[str, QuantizeFlags]]:
    """Other flags, what costs nothing first, each with an ending for its bundle."""
    scheme = options.scheme
    tries: list[tuple[str, QuantizeFlags]] = []
    if options.method_name not in ("lrq", default_method):
        tries.append((default_method, replace(again, method=None)))
    wider = wider_in_same_room(scheme.weight_bits)
    if wider is not None and options.target_size is None:
        tries.append((f"w{wider}", replace(again, weight_bits=wider)))
    if scheme.act_bits < 8:
        tries.append(("a8", replace(again, act_bits=8)))
    if scheme.weight_bits == MIN_BITS and options.target_size is None:
        tries.append(("w4", replace(again, weight_bits=4)))
    if options.recipe != "best":
        tries.append(("best", replace(again, recipe="best")))
    return tries
