"""A tiny run that can be stopped and continued; as a script, one that is killed until it is done.

``python resumed_run.py FOLDER KILLS SEED`` prints how many runs were killed in each stage. The
processes are forked from one that has loaded everything, so that a kill costs little.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.errors import OutputError
from lrq_deploy.export.bundle.folder import load_bundle
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, ProgressEvent, silent
from lrq_deploy.resume.control import RunControl
from support.small_networks import Residual, with_statistics

ALWAYS = 1e-9
"""Seconds between checkpoints that are over after every step."""

SETTINGS = RecipeSettings(
    generator_steps=9,
    refinement_steps=4,
    pool_images=24,
    held_out_images=8,
    student_steps=12,
    batch_size=8,
    calibration_images=8,
)
NETWORK = with_statistics(Residual())


def run(
    out: Path,
    progress: ProgressCallback = silent,
    control: RunControl | None = None,
    network: torch.nn.Module = NETWORK,
    **changes: Any,
) -> None:
    """Write the bundle of a tiny network."""
    values = {"input_shape": (3, 12, 12), "device": "cpu", "bench": False, **changes}
    options = QuantizeOptions(Path("tiny"), out, **values)
    quantize(options, progress, network, SETTINGS, control or RunControl())


def contents(out: Path) -> dict[str, Any]:
    """All that a bundle says, but for the time at which it was made and how long that took."""
    manifest = load_bundle(out).manifest
    metrics = {k: v for k, v in manifest.metrics.items() if not k.startswith("seconds")}
    digests = {name: record.sha256 for name, record in manifest.files.items()}
    options = {k: v for k, v in manifest.options.items() if k not in ("out", "force")}
    return {"metrics": metrics, "files": digests, "options": options, "seed": manifest.seed}


def _fork(out: Path, control: RunControl) -> tuple[int, int]:
    """Start a run in a process of its own; its id, and a pipe with a line per event."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    # Autograd works in a forked process as long as the first one has not used it.
    code = 1
    try:
        run(out, lambda event: _tell(writing, event), control)
        code = 0
    except OutputError:
        # A kill between the bundle and the end leaves a finished bundle, and nothing to do.
        code = 0 if (out / "manifest.json").exists() else 1
    finally:
        os._exit(code)


def _tell(pipe: int, event: ProgressEvent) -> None:
    os.write(pipe, f"{event.stage}\n".encode())


def _attempt(out: Path, chance: random.Random, most_events: int = 30) -> str | None:
    """The stage in which the run was killed, None where it came to its end."""
    child, reading = _fork(out, RunControl(resume=True, checkpoint_every=ALWAYS))
    events_left, stage = chance.randint(1, most_events), "load"
    with os.fdopen(reading) as lines:
        for line in lines:
            stage = line.strip()
            events_left -= 1
            if events_left == 0:
                time.sleep(chance.uniform(0, 0.02))
                os.kill(child, signal.SIGKILL)
                break
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return stage
    if status != 0:
        raise SystemExit(f"a run failed after {stage}")
    return None


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill runs until there were enough, the last of them after it was continued to its end."""
    torch.set_num_threads(1)
    # The first capture of a process loads these for seconds; the forked ones then have them.
    for name in ("torch._dynamo", "torch.export._trace", "torch.distributed.tensor"):
        import_module(name)
    chance, killed, finished = random.Random(seed), Counter[str](), 0
    child, reading = _fork(folder / "whole", RunControl())
    with os.fdopen(reading) as events:
        events.read()
    os.waitpid(child, 0)
    while sum(killed.values()) < kills or finished == 0:
        out = folder / f"killed{finished}"
        stage = _attempt(out, chance)
        if stage is not None:
            killed[stage] += 1
            continue
        finished += 1
        if contents(out) != contents(folder / "whole"):
            raise SystemExit(f"{out} differs from the run that nobody killed")
    sys.stdout.write(json.dumps(killed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
