"""What the checks of a run found, good unless something is changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lrq_deploy.cli.job.checking import Checked
from lrq_deploy.export.measures.accuracy import Fidelity
from lrq_deploy.export.measures.coverage import Coverage, LayerCoverage
from lrq_deploy.export.measures.latency import (
    BatchLatency,
    Benchmark,
    BenchmarkOptions,
    Distribution,
)
from lrq_deploy.export.parity.bounds import Bound
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.export.parity.ladder import Ladder, Rung
from lrq_deploy.options import QuantizeOptions


def fidelity(agreement: float = 1.0, teacher: float | None = None, student: float = 0.0) -> Any:
    return Fidelity(
        count=1000,
        labelled=0 if teacher is None else 1000,
        agreement=agreement,
        teacher_accuracy=teacher,
        student_accuracy=None if teacher is None else student,
        lost=0,
        gained=0,
    )


def coverage(share: float = 1.0) -> Coverage:
    done = round(1000 * share)
    return Coverage(
        (
            LayerCoverage("a", "conv2d", done, True, "QLinearConv", ""),
            LayerCoverage("b", "conv2d", 1000 - done, False, "Conv", "why"),
        ),
        {},
    )


PARITY = Parity(
    count=1000, same_top1=1.0, same_rows=1.0, identical_rows=1.0, max_diff=0.0, mean_diff=0.0
)


def rung(name: str, same_top1: float = 1.0) -> Rung:
    parity = replace(PARITY, same_top1=same_top1)
    return Rung(name, name.upper(), Bound(), parity)


def latency(ratio: float) -> Benchmark:
    times = BatchLatency(1, Distribution(10.0, 0, 0), Distribution(10 * ratio, 0, 0))
    return Benchmark(BenchmarkOptions(), "cpu", "rt", (times,), 1, 1, None, None)


def checked(**changes: Any) -> Checked:
    good: dict[str, Any] = {
        "fidelity": fidelity(),
        "parity": PARITY,
        "coverage": coverage(),
        "ladder": Ladder((rung("reference"), rung("onnxruntime-all"))),
        "benchmark": latency(0.5),
        "source": "folder",
    }
    return Checked(**{**good, **changes})


def options(**changes: Any) -> QuantizeOptions:
    return QuantizeOptions(**{"model": Path("a b.pt"), "out": Path("out"), **changes})
