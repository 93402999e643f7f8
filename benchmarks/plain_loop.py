"""The plain PyTorch loop of the reference recipes.

Our own few-line rendering of GDFQ's loop (arXiv 2003.03603), not its code, with the schedule that
``../shared/docs/method.md`` states and the temperature of its public configuration: fake
quantization by minimum and maximum in plain operators, a generator of 115 million multiply-adds per
32 x 32 image, 400 epochs of 200 steps of which 4 train the generator alone and observe the ranges
of activations. All layers have ``BITS``; the image, sums and poolings stay in float.

``speed.py`` times its steps, ``plain_accuracy.py`` trains it to the end.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

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
TEMPERATURE = 20.0
"""Of the distillation."""


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
    """A convolution or linear layer with a quantized weight.

    Args:
        layer: what it does.
        rounded: its input is quantized too.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rounded: bool) -> None:
        super().__init__()
        self.layer = layer
        self.of_input = PlainQuantizer(rows=False) if rounded else nn.Identity()
        self.of_weight = PlainQuantizer(rows=True)

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

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Images ``[N, 3, 32, 32]``, normalised, of classes ``[N]`` and noise ``[N, 100]``."""
        images: Tensor = self.layers(self.of_class(labels) * noise)
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
        quantize(self.student)
        self.generator = PlainGenerator()
        self._taps: list[tuple[nn.BatchNorm2d, Tensor]] = []
        self._norms = [m for m in self.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
        self.make = torch.optim.Adam(self.generator.parameters(), 1e-3, (0.5, 0.999))
        self.fit = torch.optim.SGD(
            self.student.parameters(), 1e-4, 0.9, weight_decay=1e-4, nesterov=True
        )
        self.labels = torch.arange(batch) % CLASSES
        self.images = torch.zeros(batch, 3, 32, 32)
        self.wanted = torch.zeros(batch, CLASSES)

    def observe(self, observing: bool) -> None:
        """Widen the ranges of activations in each call, or keep them."""
        for module in self.student.modules():
            if isinstance(module, PlainQuantizer):
                module.observing = observing

    def make_images(self) -> Tensor:
        """Of the classes ``labels``."""
        images: Tensor = self.generator(self.labels, torch.randn(self.batch, 100))
        return images

    @staticmethod
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel of ``[N, C, H, W]``."""
        return x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)

    def generator_step(self) -> None:
        """Make images of random classes, and train the generator on the teacher's BatchNorms."""
        self.labels = torch.randint(CLASSES, (self.batch,))
        self._taps.clear()
        hooks = [
            norm.register_forward_hook(lambda module, x, _: self._taps.append((module, x[0])))
            for norm in self._norms
        ]
        images = self.make_images()
        logits = self.teacher(images)
        for hook in hooks:
            hook.remove()
        distances = [
            F.mse_loss(mean, norm.running_mean) + F.mse_loss(variance, norm.running_var)
            for norm, x in self._taps
            if norm.running_mean is not None and norm.running_var is not None
            for mean, variance in [self.moments(x)]
        ]
        self.make.zero_grad()
        (F.cross_entropy(logits, self.labels) + 0.1 * torch.stack(distances).mean()).backward()
        self.make.step()
        self.images, self.wanted = images.detach(), logits.detach()

    def student_step(self) -> None:
        """Train the student on the images and answers of the generator's step."""
        self.fit.zero_grad()
        self.student_loss().backward()
        self.fit.step()

    def student_loss(self) -> Tensor:
        """Distillation, averaged over images and classes, and cross entropy."""
        given = self.student(self.images)
        soft, wanted = (x / TEMPERATURE for x in (given, self.wanted))
        apart = F.kl_div(soft.log_softmax(1), wanted.softmax(1), reduction="batchmean") / CLASSES
        return TEMPERATURE**2 * apart + F.cross_entropy(given, self.labels)

    def asking_student_step(self) -> None:
        """As ``student_step`` where a recipe trains on stored images: the teacher answers again."""
        with torch.no_grad():
            self.wanted = self.teacher(self.images)
        self.student_step()

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


def quantize(network: nn.Module) -> None:
    """Give each layer of ``network`` its quantizers; the image and what is pooled stay in float."""
    image = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                rounded = isinstance(layer, nn.Conv2d) and layer is not image
                setattr(parent, name, PlainLayer(layer, rounded))


def module_of(options: QuantizeOptions) -> nn.Module:
    """The network of a state dict."""
    program = load_model(options).program
    if not isinstance(program, nn.Module):
        raise TypeError(f"the plain loop trains modules, not {type(program).__name__}")
    return program
