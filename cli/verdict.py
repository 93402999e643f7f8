"""Whether to ship: stated limits, one sentence, and what to run next."""

import shlex

from lrq_deploy.export.accuracy import Fidelity
from lrq_deploy.export.coverage import Coverage
from lrq_deploy.export.parity import Parity
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme

__all__ = ["MAX_DROP_POINTS", "MIN_AGREEMENT", "MIN_INTEGER_SHARE", "judge", "next_commands"]

MAX_DROP_POINTS = 2.0
"""Accuracy that may be lost on labelled images, in percentage points."""

MIN_AGREEMENT = 0.95
"""Share of the same answers as the teacher, where there are no labels."""

MIN_INTEGER_SHARE = 0.95
"""Share of the multiply-adds that must run in integers."""


def judge(
    fidelity: Fidelity,
    parity: Parity,
    coverage: Coverage,
    source: str,
    refused: tuple[str, ...] = (),
) -> tuple[bool, str]:
    """Whether to ship, and the sentence that says why.

    Args:
        fidelity: teacher against student on ``source``.
        parity: exported graph against the torch student.
        coverage: what runs in integers.
        source: ``folder`` for the user's images, ``synthetic`` for made ones.
        refused: a sentence per runtime that cannot run the student.
    """
    drop = fidelity.drop_points
    if drop is not None:
        kept = drop <= MAX_DROP_POINTS
        accuracy = (
            f"it {'loses' if drop >= 0 else 'gains'} {abs(drop):.2f} points "
            f"on {fidelity.labelled:,} labelled images "
            f"(limit {MAX_DROP_POINTS:g})"
        )
    else:
        kept = fidelity.agreement >= MIN_AGREEMENT
        kind = "your images" if source == "folder" else "synthetic images only"
        accuracy = (
            f"it answers like the teacher on {100 * fidelity.agreement:.2f} % of "
            f"{fidelity.count:,} images, {kind} (limit {100 * MIN_AGREEMENT:g} %)"
        )
    integer = coverage.share >= MIN_INTEGER_SHARE
    sentence = (
        f"{accuracy}, runs {100 * coverage.share:.1f} % in integers "
        f"and ONNX Runtime repeats {100 * parity.same_top1:.2f} % of its answers."
    )
    return kept and integer, " ".join([sentence, *(f"{s[0].upper()}{s[1:]}." for s in refused)])


def next_commands(options: QuantizeOptions, ship: bool) -> tuple[str, ...]:
    """Command lines to run next: check the bundle closer, or the cheapest ways to a better one."""
    bundle, scheme = str(options.out), options.scheme
    images = [] if options.images is None else ["--images", str(options.images)]
    again = [
        *("lrq-deploy", "quantize", str(options.model)),
        *(["--arch", options.arch] if options.arch else []),
        *_shape_flags(options),
        *(["--output", options.output] if options.output else []),
        *_width_flags(scheme),
        *([] if options.target == "auto" else ["--target", options.target]),
    ]
    commands = [["lrq-deploy", "validate", bundle, *images]]
    if ship:
        commands.append(["lrq-deploy", "bench", bundle])
    elif scheme.act_bits < 8:
        commands.append([*again, "--act-bits", "8", "--out", f"{bundle}-a8"])
    if not ship and options.recipe != "best":
        same = ["--act-bits", str(scheme.act_bits)]
        commands.append([*again, *same, "--recipe", "best", "--out", f"{bundle}-best"])
    return tuple(shlex.join(command) for command in commands)


def _width_flags(scheme: Scheme) -> list[str]:
    edge = "same" if scheme.edge_bits is None else str(scheme.edge_bits)
    flags = ["--weight-bits", str(scheme.weight_bits), "--edge-bits", edge]
    if scheme.residual_bits is not None:
        flags += ["--residual-bits", str(scheme.residual_bits)]
    if scheme.act_symmetry != "symmetric":
        flags += ["--act-symmetry", scheme.act_symmetry]
    return flags


def _shape_flags(options: QuantizeOptions) -> list[str]:
    flags: list[str] = []
    if options.input_shape is not None:
        flags += ["--input-shape", ",".join(str(n) for n in options.input_shape)]
    for name, values in (("--mean", options.mean), ("--std", options.std)):
        if values is not None:
            flags.append(f"{name}=" + ",".join(str(v) for v in values))
    return flags
