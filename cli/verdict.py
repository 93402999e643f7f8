"""Whether to ship: stated limits, one sentence, and what to run next."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from lrq_deploy.cli.checking import Checked
from lrq_deploy.cli.quantize_flags import QuantizeFlags, command_line
from lrq_deploy.cli.sizes import size_change, wider_in_same_room
from lrq_deploy.export.accuracy import Fidelity
from lrq_deploy.export.latency import Benchmark
from lrq_deploy.options import QuantizeOptions

__all__ = [
    "MAX_DROP_POINTS",
    "MIN_AGREEMENT",
    "MIN_INTEGER_SHARE",
    "MIN_SYNTHETIC_AGREEMENT",
    "Verdict",
    "judge",
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
        accurate: whether those of accuracy are.
        sentence: the figures that say so, in one line.
    """

    ship: bool
    accurate: bool
    sentence: str


def judge(
    checked: Checked, float_bytes: int, student_bytes: int, refused: tuple[str, ...] = ()
) -> Verdict:
    """Whether to ship, and the sentence that says why.

    Latency is stated and decides nothing: it belongs to this machine and its load. What was
    measured decides, not the interval behind it, which is stated too.

    Args:
        checked: what was measured.
        float_bytes: size of the teacher's weights as float32.
        student_bytes: size of ``model.onnx``.
        refused: a sentence per runtime that cannot run the student.
    """
    accurate, accuracy = _accuracy(checked.fidelity, checked.source)
    integer = checked.coverage.wanted_share >= MIN_INTEGER_SHARE
    broken = {rung.name for rung in checked.ladder.failures}
    parts = [
        f"{accuracy}, runs {100 * checked.coverage.share:.1f} % in integers",
        *([] if checked.benchmark is None else [_latency(checked.benchmark)]),
        f"is {size_change(float_bytes, student_bytes)}",
        _parity(checked),
    ]
    sentence = f"{', '.join(parts[:-1])}, and {parts[-1]}."
    said = " ".join([sentence, *(f"{text[0].upper()}{text[1:]}." for text in refused)])
    return Verdict(accurate and integer and broken.isdisjoint(DECIDING_RUNGS), accurate, said)


def _accuracy(fidelity: Fidelity, source: str) -> tuple[bool, str]:
    drop, interval = fidelity.drop_points, fidelity.drop_interval
    if drop is not None and interval is not None:
        low, high = interval if drop >= 0 else (-interval[1], -interval[0])
        return drop <= MAX_DROP_POINTS, (
            f"it {'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} points ({low:.1f} to "
            f"{high:.1f}) on {fidelity.labelled:,} labelled images (limit {MAX_DROP_POINTS:g})"
        )
    limit = MIN_AGREEMENT if source == "folder" else MIN_SYNTHETIC_AGREEMENT
    low, high = fidelity.agreement_interval
    share = f"{100 * fidelity.agreement:.2f} % ({100 * low:.1f} to {100 * high:.1f})"
    kind = "your images" if source == "folder" else "synthetic and harder than data"
    if fidelity.labels is not None:
        return min(fidelity.agreement, fidelity.labels.f1) >= limit, (
            f"it answers {share} of the labels of {fidelity.count:,} "
            f"images like the teacher, {kind}, F1 of the yes answers "
            f"{100 * fidelity.labels.f1:.2f} % (limit of both {100 * limit:g} %)"
        )
    return fidelity.agreement >= limit, (
        f"it answers like the teacher on {share} of {fidelity.count:,} images, {kind} "
        f"(limit {100 * limit:g} %)"
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
    options: QuantizeOptions, flags: QuantizeFlags, ship: bool, accurate: bool
) -> tuple[str, ...]:
    """Command lines to run next: check the bundle closer, or the cheapest ways to a better one.

    Args:
        options: of the run.
        flags: that they were made from; another run has the same, but for what it tries.
        ship: whether the bundle is good enough.
        accurate: whether its accuracy is; what there is to try moves nothing else.
    """
    bundle, scheme = str(options.out), options.scheme
    images = [] if options.images is None else ["--images", str(options.images)]
    commands = [shlex.join(["lrq-deploy", "validate", bundle, *images])]
    if ship:
        return (*commands, shlex.join(["lrq-deploy", "bench", bundle]))
    if accurate:
        return tuple(commands)
    # Neither what is kept of this run nor leave to overwrite is meant for another folder.
    again = replace(flags, resume=None, force=None)
    tries: list[tuple[str, QuantizeFlags]] = []
    wider = wider_in_same_room(scheme.weight_bits)
    if wider is not None and options.target_size is None:
        tries.append((f"w{wider}", replace(again, weight_bits=wider)))
    if scheme.act_bits < 8:
        tries.append(("a8", replace(again, act_bits=8)))
    if options.recipe != "best":
        tries.append(("best", replace(again, recipe="best")))
    for suffix, changed in tries:
        changed = replace(changed, out=Path(f"{bundle}-{suffix}"))
        commands.append(command_line(options.model, changed))
    return tuple(commands)
