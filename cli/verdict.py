"""Whether to ship: stated limits, one sentence, and what to run next."""

import shlex
from dataclasses import replace
from pathlib import Path

from lrq_deploy.export.accuracy import Fidelity
from lrq_deploy.export.coverage import Coverage
from lrq_deploy.export.parity import Parity
from lrq_deploy.options import QuantizeOptions

__all__ = ["MAX_DROP_POINTS", "MIN_AGREEMENT", "MIN_INTEGER_SHARE", "judge", "next_commands"]

MAX_DROP_POINTS = 2.0
"""Accuracy that may be lost on labelled images, in percentage points."""

MIN_AGREEMENT = 0.95
"""Share of the same answers as the teacher, where there are no labels."""

MIN_INTEGER_SHARE = 0.95
"""Share of the multiply-adds that must run in integers."""


def judge(fidelity: Fidelity, parity: Parity, coverage: Coverage, source: str) -> tuple[bool, str]:
    """Whether to ship, and the sentence that says why.

    Args:
        fidelity: teacher against student on ``source``.
        parity: exported graph against the torch student.
        coverage: what runs in integers.
        source: ``folder`` for the user's images, ``synthetic`` for made ones.
    """
    drop = fidelity.drop_points
    if drop is not None:
        kept = drop <= MAX_DROP_POINTS
        accuracy = (
            f"it loses {drop:.2f} points on {fidelity.labelled:,} labelled images "
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
    return kept and integer, sentence


def next_commands(options: QuantizeOptions, ship: bool, model_file: Path) -> tuple[str, ...]:
    """Command lines to run next: use the graph, or the cheapest way to a better one."""
    load = f"import onnxruntime as rt; print(rt.InferenceSession({str(model_file)!r}).get_inputs())"
    run = shlex.join(["python", "-c", load])
    again = [
        "lrq-deploy",
        "quantize",
        str(options.model),
        *(["--arch", options.arch] if options.arch else []),
        *_shape_flags(options),
    ]
    scheme = options.scheme
    wider = replace(scheme, act_bits=8) if scheme.act_bits < 8 else scheme
    widths = ["--weight-bits", str(wider.weight_bits), "--act-bits", str(wider.act_bits)]
    same = ["--weight-bits", str(scheme.weight_bits), "--act-bits", str(scheme.act_bits)]
    better: list[str] = []
    if not ship and wider != scheme:
        better.append(shlex.join([*again, *widths]))
    if not ship and options.recipe != "best":
        better.append(shlex.join([*again, *same, "--recipe", "best"]))
    measure = []
    if options.images is None:
        measure = [shlex.join([*again, *same, "--images", "FOLDER_OF_REAL_IMAGES"])]
    return (run, *better, *measure)


def _shape_flags(options: QuantizeOptions) -> list[str]:
    flags: list[str] = []
    if options.input_shape is not None:
        flags += ["--input-shape", ",".join(str(n) for n in options.input_shape)]
    for name, values in (("--mean", options.mean), ("--std", options.std)):
        if values is not None:
            flags.append(f"{name}=" + ",".join(str(v) for v in values))
    return flags
