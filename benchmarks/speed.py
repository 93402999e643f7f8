"""Our generator and student steps beside the plain PyTorch loop of the reference recipes.

The reference is our own few-line rendering of GDFQ's loop, that of ``plain_loop.py``. Its student
steps have the teacher's answers from the generator's step; recipes that train on stored images ask
the teacher in each (``first student``). Our later ones know the answers; the mean is that of a run
of ``balanced``. Same network, batch, bits and threads. Each loop is a process, as it would be for
its user, with a heap of its own; they take turns of a few steps, so that both see the same machine.

    python benchmarks/speed.py --shared ../shared --network resnet20 --threads 1 --rounds 5
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ClassVar

import torch

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS
from plain_loop import PlainLoop, module_of
from profile_steps import model_options, our_steps

from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.method.fitting.augmented_batches import VIEWS
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.method.steps.heap import kept_heap
from lrq_deploy.options import QuantizeOptions

KINDS = ("generator", "first student", "student")
"""The first student steps ask the teacher, the others know its answers."""
TURN = 4
"""Steps of each kind while the other loop waits; the first is not counted."""


class _Loop:
    """The steps of one loop, in the process that runs them."""

    steps: ClassVar[dict[str, Callable[[], None]]] = {}
    batch: ClassVar[int] = 0

    @classmethod
    def prepare(cls, name: str, network: str, shared: Path, threads: int, rounds: int) -> None:
        """Build ``name``, which is ``plain`` or ``ours``."""
        torch.set_num_threads(threads)
        model = model_options(NETWORKS[network], shared)
        cls.batch = recipe_settings("balanced", (3, 32, 32)).batch_size
        asking = TURN * (rounds + 1)
        made = our_steps(load_teacher(model), asking=asking) if name == "ours" else None
        made = made or plain_steps(model, cls.batch)
        cls.steps = {kind: made[kind] for kind in KINDS if kind in made}

    @classmethod
    def plain_turn(cls) -> dict[str, list[float]]:
        """Seconds of each step, which alternate as in the recipes."""
        turns = [{kind: _seconds(step) for kind, step in cls.steps.items()} for _ in range(TURN)]
        return {kind: [seconds[kind] for seconds in turns[1:]] for kind in cls.steps}

    @classmethod
    def our_turn(cls) -> dict[str, list[float]]:
        """Seconds of each step, kind after kind as ``run_stage`` does them."""
        taken = {}
        for kind, step in cls.steps.items():
            with kept_heap():
                taken[kind] = [_seconds(step) for _ in range(TURN)][1:]
        return taken

    @classmethod
    def peak(cls) -> float:
        """MiB; unlike getrusage's it does not begin with what the parent took."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    @classmethod
    def images(cls) -> int:
        """Images of a step."""
        return cls.batch


def main() -> None:
    """Time all four steps in turn, and the peak memory of both loops."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--network", default="resnet20", choices=["resnet20", "resnet32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about = (options.network, Path(options.shared), options.threads, options.rounds)
    turns = {"plain": _Loop.plain_turn, "ours": _Loop.our_turn}
    spawn = multiprocessing.get_context("spawn")
    pools = {name: ProcessPoolExecutor(1, spawn, _Loop.prepare, (name, *about)) for name in turns}
    seconds: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in KINDS} for name in turns
    }
    for done in range(options.rounds + 1):
        for name, turn in turns.items():
            taken = pools[name].submit(turn).result()
            for kind in taken if done else ():
                seconds[name][kind] += taken[kind]
    batch = pools["ours"].submit(_Loop.images).result()
    print("| step | loop | ms | images/s | peak MiB of the loop |\n|---|---|---|---|---|")
    for name, pool in pools.items():
        peak = pool.submit(_Loop.peak).result()
        for kind in filter(seconds[name].get, KINDS):
            median = statistics.median(seconds[name][kind])
            print(f"| {kind} | {name} | {1000 * median:.0f} | {batch / median:.0f} | {peak:.0f} |")
        pool.shutdown()
    ours, plain = (
        {kind: statistics.median(taken) for kind, taken in seconds[name].items() if taken}
        for name in ("ours", "plain")
    )
    share = asking_share()
    ours["student"] = share * ours.pop("first student") + (1 - share) * ours["student"]
    for kind, mean in ours.items():
        print(f"\n{kind}: {plain[kind] / mean:.2f} x the speed of the plain loop")
    print(f"\nstudent: {plain['first student'] / ours['student']:.2f} x one that always asks")
    whole = [sum(loop[kind] for kind in ("generator", "student")) for loop in (plain, ours)]
    print(f"\nboth: {whole[0] / whole[1]:.2f} x the speed of the plain loop")


def plain_steps(options: QuantizeOptions, batch: int) -> dict[str, Callable[[], None]]:
    """The plain loop's steps as all but the first epochs have them, with ranges that stay."""
    loop = PlainLoop(module_of(options), batch)
    loop.generator_step()
    loop.student_step()
    loop.observe(False)
    return {
        "generator": loop.generator_step,
        "first student": loop.asking_student_step,
        "student": loop.student_step,
    }


def asking_share() -> float:
    """Share of the student steps of ``balanced`` that ask the teacher."""
    settings = recipe_settings("balanced", (3, 32, 32))
    return VIEWS * settings.pool_images / (settings.batch_size * settings.student_steps)


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
