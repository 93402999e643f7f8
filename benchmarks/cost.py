"""Whether the cost of a run grows as its work does: a ladder of networks, image sizes and classes.

One step of the generator, of the refinement and of the student is timed for each rung, in a
process of its own, at one batch size for all. The work of a step is the multiply-adds of the
network times the images; the exponent of ``seconds ~ work ** exponent`` is fitted over all
rungs, and 1 is linear. ``--finish`` also runs the stages behind training on resnet20 and resnet50.
Weights are random, nothing is downloaded.

    python benchmarks/cost.py --shared ../shared --threads 1 --out docs/cost.md
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import commit, machine
from profile_steps import our_steps

from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.process_memory import peak_bytes
from lrq_deploy.teacher import Preprocessing

BATCH = 16
STEPS = 3
SETTINGS = RecipeSettings(batch_size=BATCH, calibration_images=2 * BATCH)
TINY = RecipeSettings(
    generator_steps=1,
    refinement_steps=1,
    pool_images=64,
    held_out_images=32,
    student_steps=1,
    batch_size=4,
    calibration_images=4,
)
"""Trains so little that what comes after it decides the peak of the memory."""
PREPROCESSING = Preprocessing((0.5,) * 3, (0.5,) * 3)
STAGES = ("generator", "refinement", "student")


@dataclass(frozen=True)
class Rung:
    """A network at an image size, with a number of classes."""

    network: str
    side: int
    classes: int

    @property
    def name(self) -> str:
        """For file names and tables."""
        return f"{self.network}-{self.side}px-{self.classes}"


LADDER = [
    *(Rung(network, 32, 10) for network in ("resnet20", "resnet32", "resnet56")),
    *(Rung("resnet18", side, 1000) for side in (32, 64, 128, 224)),
    *(Rung("resnet18", 64, classes) for classes in (10, 100)),
    Rung("resnet34", 64, 1000),
    Rung("resnet50", 64, 1000),
]
FINISHED = (Rung("resnet20", 32, 10), Rung("resnet50", 224, 1000))


def main() -> None:
    """Measure what is missing, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default="../shared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", default="runs/cost/cost.md", help="table; a picture lies beside it"
    )
    parser.add_argument("--finish", action="store_true", help="also export, check and report")
    parser.add_argument("--rung", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.rung is not None:
        found = {rung.name: rung for rung in (*LADDER, *FINISHED)}[options.rung]
        print(json.dumps((_finish if options.finish else _steps)(found, Path(options.shared))))
        return
    rows = [_in_a_process(rung, options, False) for rung in LADDER]
    finished = [_in_a_process(rung, options, True) for rung in FINISHED if options.finish]
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(rows, finished, options.threads))
    picture(rows).save(out.with_suffix(".png"))
    print(out.read_text())


def _in_a_process(rung: Rung, options: argparse.Namespace, finish: bool) -> dict[str, Any]:
    print(f"measuring {rung.name}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, f"--rung={rung.name}", f"--shared={options.shared}"]
    command += [f"--threads={options.threads}", *(["--finish"] if finish else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{rung.name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _network(rung: Rung, shared: Path) -> nn.Module:
    """With random weights, and statistics of one forward of noise in training mode."""
    torch.manual_seed(0)
    if rung.side == 32 and rung.classes == 10:
        sys.path.insert(0, str(shared / "models"))
        from resnet_cifar import ResNet

        network: nn.Module = ResNet((int(rung.network.removeprefix("resnet")) - 2) // 6)
    else:
        network = torchvision.models.get_model(rung.network, num_classes=rung.classes)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, rung.side, rung.side))
    return network.eval()


def _steps(rung: Rung, shared: Path) -> dict[str, Any]:
    network = _network(rung, shared)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, rung.side, rung.side))
    teacher = make_teacher(network, (3, rung.side, rung.side), PREPROCESSING, rung.network, "")
    seconds = {name: _median(step) for name, step in our_steps(teacher, SETTINGS).items()}
    return {
        **vars(rung),
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
        "seconds": seconds,
        "peak_mib": _peak_mib(),
    }


def _median(step: Callable[[], None]) -> float:
    step()
    taken = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _finish(rung: Rung, shared: Path) -> dict[str, Any]:
    """Stages behind training of a whole run that hardly trains."""
    with tempfile.TemporaryDirectory() as folder:
        options = QuantizeOptions(
            Path(rung.network),
            Path(folder) / "bundle",
            input_shape=(3, rung.side, rung.side),
            mean=PREPROCESSING.mean,
            std=PREPROCESSING.std,
        )
        result = quantize(options, network=_network(rung, shared), settings=TINY)
    stages = {name: result.stage_seconds[name] for name in ("export", "check")}
    return {**vars(rung), "seconds": stages, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    return peak_bytes() / 2**20


def exponent(rows: Sequence[dict[str, Any]], stage: str) -> float:
    """Slope of the logarithm of a step's seconds over that of its multiply-adds."""
    work = [math.log(row["multiply_adds"]) for row in rows]
    return statistics.linear_regression(
        work, [math.log(row["seconds"][stage]) for row in rows]
    ).slope


def table(rows: Sequence[dict[str, Any]], finished: Sequence[dict[str, Any]], threads: int) -> str:
    """Markdown of the ladder, its exponents, and the stages behind training."""
    lines = [
        "| network | side | classes | parameters, millions | multiply-adds, millions | "
        + " | ".join(f"{stage} ms" for stage in STAGES)
        + " | peak MiB |",
        "|---" * (6 + len(STAGES)) + "|",
    ]
    for row in rows:
        about = [row["network"], row["side"], row["classes"]]
        about += [f"{row['parameters'] / 1e6:.2f}", f"{row['multiply_adds'] / 1e6:,.0f}"]
        times = [f"{1000 * row['seconds'][stage]:,.0f}" for stage in STAGES]
        lines.append(f"| {' | '.join(map(str, [*about, *times]))} | {row['peak_mib']:,.0f} |")
    slopes = ", ".join(f"{stage} {exponent(rows, stage):.2f}" for stage in STAGES)
    lines += ["", f"Exponents over multiply-adds: {slopes}."]
    if finished:
        lines += ["", "| network | side | export s | check s | peak MiB |", "|---|---|---|---|---|"]
    for row in finished:
        times = [f"{row['seconds'][name]:.1f}" for name in ("export", "check")]
        lines.append(
            f"| {row['network']} | {row['side']} | {' | '.join(times)} | {row['peak_mib']:,.0f} |"
        )
    lines += ["", f"{BATCH} images per step, {threads} thread(s), {machine()}, {commit()}."]
    return "\n".join(lines) + "\n"


def picture(rows: Sequence[dict[str, Any]]) -> Image.Image:
    """Seconds of each step over multiply-adds, both logarithmic, with the lines of exponent 1."""
    colours = {"generator": (20, 120, 90), "refinement": (230, 150, 60), "student": (60, 90, 200)}
    wide, tall, edge = 720, 480, 60
    work = [math.log10(row["multiply_adds"]) for row in rows]
    seconds = [math.log10(row["seconds"][stage]) for row in rows for stage in STAGES]
    left, right = math.floor(min(work)), math.ceil(max(work))
    low, high = math.floor(min(seconds)), math.ceil(max(seconds))

    def place(x: float, y: float) -> tuple[float, float]:
        across = edge + (wide - 2 * edge) * (x - left) / (right - left)
        return across, tall - edge - (tall - 2 * edge) * (y - low) / (high - low)

    image = Image.new("RGB", (wide, tall), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw.font = ImageFont.load_default(13)
    for x in range(left, right + 1):
        draw.line([place(x, low), place(x, high)], (225, 225, 225))
        draw.text((place(x, low)[0] - 12, tall - edge + 6), f"1e{x}", (90, 90, 90))
    for y in range(low, high + 1):
        draw.line([place(left, y), place(right, y)], (225, 225, 225))
        draw.text((edge - 44, place(left, y)[1] - 8), f"{10.0**y:g} s", (90, 90, 90))
    draw.text((edge, tall - 26), f"multiply-adds of one image; {BATCH} images per step", (90,) * 3)
    for index, stage in enumerate(STAGES):
        points = [(w, math.log10(r["seconds"][stage])) for w, r in zip(work, rows, strict=True)]
        level = statistics.mean(y - x for x, y in points)
        start, end = max(left, low - level), min(right, high - level)
        draw.line([place(start, start + level), place(end, end + level)], colours[stage])
        for point in points:
            cx, cy = place(*point)
            draw.ellipse((cx - 4, cy - 4, cx + 4, cy + 4), fill=colours[stage])
        label = f"{stage}, exponent {exponent(rows, stage):.2f}"
        draw.text((edge + 12, 20 + 16 * index), label, colours[stage])
    return image


if __name__ == "__main__":
    main()
