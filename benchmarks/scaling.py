"""One run on 1, 2, ... processes: seconds per stage, measured in turn.

    python benchmarks/scaling.py --shared ../shared --processes 1,2 --rounds 2

Each measurement is a job of ``torchrun`` with one thread per process, on resnet20 at W4A4 with a
small recipe. ``cpu`` is the time that the busiest process computed, ``wall`` what passed: on a
machine that has other work, ``wall`` also says how many processes asked for a share of the cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from lrq_deploy.calibration.fit import fit_student
from lrq_deploy.calibration.synthesize import synthesize
from lrq_deploy.cli.preparing import load_teacher
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.placement import place_quantizers
from lrq_deploy.launch import launch
from lrq_deploy.method.loop import KEEP_NOTHING
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.ranks import joined_ranks
from lrq_deploy.scheme import Scheme
from lrq_deploy.target import PORTABLE

CPU = torch.device("cpu")
SETTINGS = RecipeSettings(
    generator_steps=8,
    refinement_steps=6,
    pool_images=384,
    held_out_images=128,
    block_steps=0,
    student_steps=12,
)
STAGES = ("generator", "images", "student")


class Stopwatch:
    """A progress callback that notes wall and CPU time of every stage, from its first event."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}
        self._began: dict[str, tuple[float, float]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = (time.perf_counter(), time.process_time())
        began = self._began.setdefault(event.stage, now)
        wall, cpu = (end - start for start, end in zip(began, now, strict=True))
        self.seconds[event.stage] = {"wall": wall, "cpu": cpu}


def measure(shared: Path) -> None:
    """One measurement, as one of the processes; the first one prints the slowest of each."""
    models, watch = shared / "models", Stopwatch()
    options = QuantizeOptions(
        models / "resnet20.pt",
        Path("unused"),
        scheme=Scheme(4, 4),
        arch=f"{models / 'resnet_cifar.py'}:resnet20",
        input_shape=(3, 32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        device="cpu",
    )
    with joined_ranks(launch(), CPU) as ranks:
        teacher = load_teacher(options)
        switches = options.method
        made = synthesize(teacher, SETTINGS, switches, 0, CPU, watch, ranks=ranks)
        folded = fold_batch_norm(teacher.graph)
        student = place_quantizers(folded, options.scheme, PORTABLE, teacher.preprocessing)
        fit_student(
            student,
            made,
            SETTINGS,
            switches,
            True,
            teacher.task,
            0,
            CPU,
            watch,
            KEEP_NOTHING,
            ranks,
        )
        found = {
            stage: {kind: ranks.largest(watch.seconds[stage][kind])[0] for kind in ("wall", "cpu")}
            for stage in STAGES
        }
        if ranks.first:
            print(json.dumps(found))


def main() -> None:
    """Run the jobs in turn and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.shared)
        return
    counts = [int(count) for count in options.processes.split(",")]
    found: dict[int, list[dict[str, dict[str, float]]]] = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            found[count].append(_job(count, options.shared))
    print("| stage | " + " | ".join(f"{n}: wall s | {n}: cpu s" for n in counts) + " |")
    print("|---|" + "---|---|" * len(counts))
    for stage in STAGES:
        cells = [
            f"{statistics.median(one[stage][kind] for one in found[count]):.1f}"
            for count in counts
            for kind in ("wall", "cpu")
        ]
        print(f"| {stage} | " + " | ".join(cells) + " |")


def _job(count: int, shared: Path) -> dict[str, dict[str, float]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, f"--nproc-per-node={count}", __file__, f"--shared={shared}", "--measure"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        sys.exit(f"{count} processes failed:\n{done.stderr[-2000:]}")
    result: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
