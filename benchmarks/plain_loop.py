"""The plain PyTorch loop of the reference recipes, and the accuracy that it reaches.

Our own few-line rendering of GDFQ's loop (arXiv 2003.03603) with the schedule that
``../shared/docs/method.md`` states, not its code: fake quantization by minimum and maximum in plain
operators, a generator of 115 million multiply-adds per 32 x 32 image, teacher and student forward
in each student step, 400 epochs of 200 steps of which 4 train the generator alone and observe the
ranges of activations. All layers have ``BITS``, sums and poolings stay in float.

    python benchmarks/plain_loop.py --network resnet20_jpeg --out runs/plain --minutes 100

trains on where an earlier run into ``--out`` stopped, and writes one line per 2,000 steps: the drop
against the float network and the share of equal answers. The state of the last step counts, no
better one is searched for. 80,000 steps take days on two cores: ``--minutes`` ends a sitting.
"""

import argparse
import copy
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from accuracy import NETWORKS
from profile_steps import model_options

from lrq_deploy.images import ImageSet, read_image_folder
from lrq_deploy.loading import load_model
from lrq_deploy.options import QuantizeOptions

BITS = 4
CLASSES = 10
EPOCH = 200
EPOCHS = 400
OBSERVING = 4
"""Epochs that train the generator alone."""
DECAYS = (100, 200, 300)
"""Epochs from which both rates are a tenth of what they were."""
MEASURED = 2000
"""Steps between two measurements."""
KEPT = 200
"""Steps between two files to go on from."""


class PlainQuantizer(nn.Module):
    """Asymmetric fake quantization between the smallest and the largest value, straight through.

    Args:
        rows: a weight, of which each row has a range, that of each call; else the range of all
            calls while ``observing``.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rows: bool) -> None:
        super().__init__()
        self.rows = rows
        self.observing = True
        self.register_buffer("low", torch.zeros(1))
        self.register_buffer("high", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` rounded to ``2**BITS`` values."""
        low, high = self.low, self.high
        if self.rows:
            shape = [-1] + [1] * (x.dim() - 1)
            flat = x.detach().flatten(1)
            low, high = flat.amin(1).reshape(shape), flat.amax(1).reshape(shape)
        elif self.observing:
            low.copy_(torch.minimum(low, x.detach().amin()))
            high.copy_(torch.maximum(high, x.detach().amax()))
        scale = ((high - low) / (2**BITS - 1)).clamp_min(1e-8)
        q: Tensor = torch.clamp(torch.round((x - low) / scale), 0, 2**BITS - 1) * scale + low
        return x + (q - x).detach()


class PlainLayer(nn.Module):
    """A convolution or linear layer with quantized weight and input."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.of_input, self.of_weight = PlainQuantizer(rows=False), PlainQuantizer(rows=True)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        x, weight = self.of_input(x), self.of_weight(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        result: Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
        return result


class PlainGenerator(nn.Module):
    """GDFQ's layout: linear to 8 x 8, two doublings with convolutions of 128 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.of_class = nn.Embedding(CLASSES, 100)
        self.layers = nn.Sequential(
            nn.Linear(100, 128 * 8 * 8),
            nn.Unflatten(1, (128, 8, 8)),
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            *(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            nn.Upsample(scale_factor=2),
            *(nn.Conv2d(128, 64, 3, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(64, 3, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(3, affine=False)),
        )

    def forward(self, labels: Tensor) -> Tensor:
        """Images ``[N, 3, 32, 32]``, normalised, of the classes ``[N]``."""
        images: Tensor = self.layers(self.of_class(labels) * torch.randn(len(labels), 100))
        return images


class PlainLoop:
    """Teacher, student and generator with their optimizers.

    Args:
        network: with BatchNorm, ``CLASSES`` classes and images of 32 x 32; it is copied.
        batch: images of a step.
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        self.batch = batch
        self.step = 0
        self.teacher, self.student = (copy.deepcopy(network).eval() for _ in range(2))
        self.teacher.requires_grad_(False)
        self.student.requires_grad_(True)
        for parent in list(self.student.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Conv2d | nn.Linear) and not isinstance(parent, PlainLayer):
                    setattr(parent, name, PlainLayer(layer))
        self.generator = PlainGenerator()
        self._taps: list[tuple[nn.BatchNorm2d, Tensor]] = []
        self._norms = [m for m in self.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
        self.make = torch.optim.Adam(self.generator.parameters(), 1e-3, (0.5, 0.999))
        self.fit = torch.optim.SGD(
            self.student.parameters(), 1e-4, 0.9, weight_decay=1e-4, nesterov=True
        )
        self.labels = torch.arange(batch) % CLASSES
        self.images = torch.zeros(batch, 3, 32, 32)

    def observe(self, observing: bool) -> None:
        """Widen the ranges of activations in each call, or keep them."""
        for module in self.student.modules():
            if isinstance(module, PlainQuantizer):
                module.observing = observing

    def generator_step(self) -> None:
        """Make images of random classes, and train the generator on the teacher's BatchNorms."""
        self.labels = torch.randint(CLASSES, (self.batch,))
        self._taps.clear()
        hooks = [
            norm.register_forward_hook(lambda module, x, _: self._taps.append((module, x[0])))
            for norm in self._norms
        ]
        images = self.generator(self.labels)
        logits = self.teacher(images)
        for hook in hooks:
            hook.remove()
        distances = [
            F.mse_loss(x.mean((0, 2, 3)), norm.running_mean)
            + F.mse_loss(x.var((0, 2, 3)), norm.running_var)
            for norm, x in self._taps
            if norm.running_mean is not None and norm.running_var is not None
        ]
        self.make.zero_grad()
        (F.cross_entropy(logits, self.labels) + 0.1 * torch.stack(distances).sum()).backward()
        self.make.step()
        self.images = images.detach()

    def student_step(self) -> None:
        """Train the student on the images of the generator's step."""
        with torch.no_grad():
            wanted = self.teacher(self.images)
        given = self.student(self.images)
        soft = F.kl_div(given.log_softmax(1), wanted.softmax(1), reduction="batchmean")
        self.fit.zero_grad()
        (soft + F.cross_entropy(given, self.labels)).backward()
        self.fit.step()

    def advance(self) -> None:
        """The next step of the schedule."""
        epoch = self.step // EPOCH
        decay = 0.1 ** sum(epoch >= begin for begin in DECAYS)
        self.make.param_groups[0]["lr"] = 1e-3 * decay
        self.fit.param_groups[0]["lr"] = 1e-4 * decay
        self.observe(epoch < OBSERVING)
        self.generator_step()
        if epoch < OBSERVING:
            with torch.no_grad():
                self.student(self.images)
        else:
            self.student_step()
        self.step += 1

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "generator": self.generator.state_dict(),
            "make": self.make.state_dict(),
            "fit": self.fit.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.generator.load_state_dict(state["generator"])
        self.make.load_state_dict(state["make"])
        self.fit.load_state_dict(state["fit"])
        torch.set_rng_state(state["random"])


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
    loop = PlainLoop(module_of(model), options.batch)
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


def module_of(options: QuantizeOptions) -> nn.Module:
    """The network of a state dict."""
    program = load_model(options).program
    if not isinstance(program, nn.Module):
        raise TypeError(f"the plain loop trains modules, not {type(program).__name__}")
    return program


if __name__ == "__main__":
    main()
