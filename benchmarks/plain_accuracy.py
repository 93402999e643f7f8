"""The accuracy that the plain loop of the reference recipes reaches.

``plain_loop.py`` is trained to its end by ``QuickLoop``: the same steps in a cheaper order of
operations, for 80,000 of them take 22 hours of two cores otherwise.

    python benchmarks/plain_accuracy.py --network resnet20_jpeg --out runs/plain --minutes 100

trains on where an earlier run into ``--out`` stopped, and writes one line per 2,000 steps: the drop
against the float network and the share of equal answers. The state of the last step counts, no
better one is searched for. ``--minutes`` ends a sitting.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS
from plain_loop import CLASSES, EPOCH, EPOCHS, PlainLoop, module_of
from profile_steps import model_options

from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.loading import load_model
from lrq_deploy.method.images.doubling import convolve_doubled
from lrq_deploy.method.images.statistics_loss import channel_moments
from lrq_deploy.options import QuantizeOptions

MEASURED = 2000
"""Steps between two measurements."""
KEPT = 200
"""Steps between two files to go on from."""


class DoublingConvolution(nn.Conv2d):
    """A 3x3 convolution with padding of a map doubled by its nearest values."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, D, 2 H, 2 W]``."""
        y = convolve_doubled(x, self.weight)
        return y if self.bias is None else y + self.bias[:, None, None]


class QuickLoop(PlainLoop):
    """The plain loop in channels-last, with a generator that does not double maps.

    Args:
        network: as of ``PlainLoop``.
        batch: as there.
        precision: of the generator's convolutions.
    """

    def __init__(
        self, network: nn.Module, batch: int, precision: torch.dtype = torch.bfloat16
    ) -> None:
        super().__init__(network, batch)
        self.precision = precision
        layers = self.generator.layers
        for index in range(len(layers) - 1):
            doubling, plain = layers[index : index + 2]
            if isinstance(doubling, nn.Upsample) and isinstance(plain, nn.Conv2d):
                quick = DoublingConvolution(plain.in_channels, plain.out_channels, 3)
                quick.weight, quick.bias = plain.weight, plain.bias
                layers[index], layers[index + 1] = nn.Identity(), quick
        for module in (self.teacher, self.student, self.generator):
            module.to(memory_format=torch.channels_last)

    @staticmethod
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        """As of the plain loop, without the slow operator."""
        mean, variance = channel_moments([x])
        return mean[0], variance[0]

    def make_images(self) -> Tensor:
        """As of the plain loop, rounded where ``precision`` is."""
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            images = super().make_images()
        return images.float().contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Measured:
    """What the student answers after ``step`` steps; shares in per cent."""

    step: int
    float_accuracy: float
    accuracy: float
    same: float
    seconds: float

    @property
    def drop(self) -> float:
        """Points lost."""
        return self.float_accuracy - self.accuracy


@torch.no_grad()
def measure(loop: PlainLoop, images: ImageSet, seconds: float) -> Measured:
    """Teacher and student on labelled images, after ``seconds`` of steps."""
    loop.observe(False)
    right = torch.zeros(2)
    same = 0
    for batch, labels in images.labelled_batches(250):
        if labels is None:
            raise ValueError(f"{images.source} has no class folders")
        answers = [network(batch).argmax(1) for network in (loop.teacher, loop.student)]
        right += torch.tensor([int((a == labels).sum()) for a in answers])
        same += int((answers[0] == answers[1]).sum())
    of_teacher, of_student = (100 * right / len(images)).tolist()
    return Measured(loop.step, of_teacher, of_student, 100 * same / len(images), seconds)


def main() -> None:
    """Train on, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default="../shared")
    parser.add_argument("--network", default="resnet20_jpeg", choices=["resnet20", "resnet20_jpeg"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=EPOCH * EPOCHS)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    network = NETWORKS[options.network]
    model = model_options(network, options.shared)
    loop = QuickLoop(module_of(model), options.batch)
    images = _images(options.shared / "data" / network.images, model)
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"network": options.network, "batch": options.batch, "seed": options.seed}
    kept = options.out / "state.pt"
    seconds = 0.0
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        if found["about"] != about:
            parser.error(f"--out must be of the same run: {kept} is of {found['about']}")
        loop.restore(found["loop"])
        seconds = found["seconds"]
    end = time.monotonic() + 60 * options.minutes
    while loop.step < options.steps and time.monotonic() < end:
        start = time.perf_counter()
        loop.advance()
        seconds += time.perf_counter() - start
        if loop.step % MEASURED == 0 or loop.step == options.steps:
            _tell(measure(loop, images, seconds), options.out / "measured.jsonl")
        if loop.step % KEPT == 0:
            _keep(loop, seconds, about, kept)
    _keep(loop, seconds, about, kept)


def _keep(loop: PlainLoop, seconds: float, about: dict[str, Any], kept: Path) -> None:
    partial = kept.with_suffix(".partial")
    torch.save({"loop": loop.state(), "seconds": seconds, "about": about}, partial)
    os.replace(partial, kept)


def _tell(measured: Measured, file: Path) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(vars(measured)) + "\n")
    print(
        f"{measured.step} steps: drop {measured.drop:.2f}, {measured.same:.2f} % the same answers, "
        f"{measured.seconds:.0f} s",
        flush=True,
    )


def _images(folder: Path, options: QuantizeOptions) -> ImageSet:
    return read_image_folder(folder, (3, 32, 32), load_model(options).preprocessing, CLASSES)


if __name__ == "__main__":
    main()
