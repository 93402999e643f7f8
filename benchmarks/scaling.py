"""How the time of a run falls with processes and with threads, on one machine.

The same short run of the pipeline (same network, batch and samples seen) is started as one process
of one thread, one process of N threads, and N processes of one thread under ``torchrun``.
Start-up and what only the first process does (export, checks) are left out of the compared stages.

    python benchmarks/scaling.py --shared ../shared --network resnet20 --processes 2
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS, commit, machine
from profile_steps import model_options

from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.launch import launch
from lrq_deploy.method.recipe import RecipeSettings

SETTINGS = RecipeSettings(
    generator_steps=20, pool_images=256, held_out_images=128, refinement_steps=10, student_steps=30
)
STAGES = ("synthesize", "fit")


@dataclass(frozen=True)
class Way:
    """Processes, and threads of each."""

    processes: int
    threads: int


def main() -> None:
    """Run every way, then print the table; as a process of a way, run the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--network", default="resnet20", choices=sorted(NETWORKS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.out is not None:
        _run(options.network, Path(options.shared), Path(options.out))
        return
    count = options.processes
    ways = (Way(1, 1), Way(1, count), Way(count, 1))
    print(table({way: _started(way, options) for way in ways}))
    print(f"\n{options.network}, {machine()}, {commit()}.")


def table(taken: Mapping[Way, Mapping[str, float]]) -> str:
    """Markdown: seconds per stage, and how many times faster than the first way."""
    lines = [
        "| processes | threads each | synthesize s | fit s | both | faster |",
        "|---" * 6 + "|",
    ]
    base = sum(next(iter(taken.values())).values())
    for way, seconds in taken.items():
        both = sum(seconds.values())
        stages = " | ".join(f"{seconds[stage]:.1f}" for stage in STAGES)
        lines.append(
            f"| {way.processes} | {way.threads} | {stages} | {both:.1f} | {base / both:.2f} x |"
        )
    return "\n".join(lines)


def _started(way: Way, options: argparse.Namespace) -> dict[str, float]:
    print(f"{way.processes} processes of {way.threads} threads", file=sys.stderr, flush=True)
    launcher = [sys.executable]
    if way.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={way.processes}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, __file__, f"--shared={options.shared}"]
        command += [f"--network={options.network}", f"--out={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(way.threads)}
        subprocess.run(command, check=True, env=environment)
        found: dict[str, float] = json.loads((Path(folder) / "seconds.json").read_text())
    return found


def _run(network: str, shared: Path, folder: Path) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    options = model_options(NETWORKS[network], shared)
    options = replace(options, out=folder / "bundle", device="cpu", bench=False)
    result = quantize(options, settings=SETTINGS)
    if launch().first:
        seconds = {stage: result.stage_seconds[stage] for stage in STAGES}
        (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
