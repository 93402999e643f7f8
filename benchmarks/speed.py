"""Our generator and student steps beside the plain PyTorch loop of the reference recipes.

The reference is our own few-line rendering of GDFQ's loop (arXiv 2003.03603), not its code: images
and maps contiguous, fake quantization by minimum and maximum in plain operators, teacher and
student forward in each student step, a generator of 115 million multiply-adds per 32 x 32 image.
Our later student steps know the teacher's answers; the mean is that of a run of ``balanced``. Same
network, batch, bits and threads. Each loop is a process, as it would be for its user, with a heap
of its own; they take turns of a few steps, so that both see the same machine.

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
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS
from profile_steps import model_options, our_steps

from lrq_deploy.cli.preparing import load_teacher
from lrq_deploy.loading import load_model
from lrq_deploy.method.augmented_batches import VIEWS
from lrq_deploy.method.heap import kept_heap
from lrq_deploy.method.precision import trains_quickly
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.options import QuantizeOptions

BITS = 4
KINDS = ("generator", "first student", "student")
"""Of ours; the plain loop has one kind of student step, which always asks the teacher."""
TURN = 4
"""Steps of each kind while the other loop waits; the first is not counted."""


class PlainQuantizer(nn.Module):
    """Asymmetric fake quantization between the smallest and the largest value, straight through."""

    def forward(self, x: Tensor) -> Tensor:
        """Quantize a tensor, or each row of a weight matrix."""
        flat = x.detach().flatten(1) if x.requires_grad and x.is_leaf else x.detach().reshape(1, -1)
        shape = [-1] + [1] * (x.dim() - 1)
        low, high = flat.amin(1).reshape(shape), flat.amax(1).reshape(shape)
        scale = ((high - low) / (2**BITS - 1)).clamp_min(1e-8)
        q: Tensor = torch.clamp(torch.round((x - low) / scale), 0, 2**BITS - 1) * scale + low
        return x + (q - x).detach()


class PlainLayer(nn.Module):
    """A convolution or linear layer with quantized weight and input."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.quantize = PlainQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        x, weight = self.quantize(x), self.quantize(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        result: Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
        return result


class PlainGenerator(nn.Sequential):
    """GDFQ's layout: linear to 8 x 8, two doublings with convolutions of 128 and 64 channels."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(100, 128 * 8 * 8),
            nn.Unflatten(1, (128, 8, 8)),
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            *(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            nn.Upsample(scale_factor=2),
            *(nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(64, 3, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(3, affine=False)),
        )


def _module(options: QuantizeOptions) -> nn.Module:
    """A copy of the network of a state dict."""
    program = load_model(options).program
    if not isinstance(program, nn.Module):
        raise TypeError(f"the plain loop trains modules, not {type(program).__name__}")
    return program


def reference_steps(options: QuantizeOptions, batch: int) -> dict[str, Callable[[], None]]:
    """The plain loop's generator and student step."""
    teacher, student = (_module(options) for _ in range(2))
    teacher.eval().requires_grad_(False)
    student.eval().requires_grad_(True)
    for parent in list(student.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear) and not isinstance(parent, PlainLayer):
                setattr(parent, name, PlainLayer(layer))
    generator = PlainGenerator()
    taps: list[tuple[nn.BatchNorm2d, Tensor]] = []
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    make = torch.optim.Adam(generator.parameters(), 1e-3)
    fit = torch.optim.SGD(student.parameters(), 1e-4, momentum=0.9, nesterov=True)
    labels = torch.arange(batch) % 10

    def generator_step() -> None:
        taps.clear()
        hooks = [n.register_forward_hook(lambda m, i, _: taps.append((m, i[0]))) for n in norms]
        logits = teacher(generator(torch.randn(batch, 100)))
        for hook in hooks:
            hook.remove()
        distances = [
            F.mse_loss(x.mean((0, 2, 3)), n.running_mean)
            + F.mse_loss(x.var((0, 2, 3)), n.running_var)
            for n, x in taps
            if n.running_mean is not None and n.running_var is not None
        ]
        make.zero_grad()
        (F.cross_entropy(logits, labels) + 0.1 * torch.stack(distances).sum()).backward()
        make.step()

    images = torch.randn(batch, 3, 32, 32)

    def student_step() -> None:
        with torch.no_grad():
            wanted = teacher(images)
        given = student(images)
        soft = F.kl_div(given.log_softmax(1), wanted.softmax(1), reduction="batchmean")
        fit.zero_grad()
        (soft + F.cross_entropy(given, labels)).backward()
        fit.step()

    return {"generator": generator_step, "student": student_step}


class _Loop:
    """The steps of one loop, in the process that runs them."""

    steps: ClassVar[dict[str, Callable[[], None]]] = {}
    batch: ClassVar[int] = 0

    @classmethod
    def prepare(cls, name: str, network: str, shared: Path, threads: int, rounds: int) -> None:
        """Build ``name``, which is ``plain`` or ``ours``."""
        torch.set_num_threads(threads)
        model = model_options(NETWORKS[network], shared)
        cls.batch = recipe_settings("balanced", (3, 32, 32), quick=False).batch_size
        asking = TURN * (rounds + 1)
        made = our_steps(load_teacher(model), asking=asking) if name == "ours" else None
        made = made or reference_steps(model, cls.batch)
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


def asking_share() -> float:
    """Share of the student steps of ``balanced`` here that ask the teacher."""
    quick = trains_quickly(torch.device("cpu"), wanted=True)
    settings = recipe_settings("balanced", (3, 32, 32), quick)
    return VIEWS * settings.pool_images / (settings.batch_size * settings.student_steps)


def _seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
