"""The small digit classifier of ``lrq-deploy demo``, trained on scikit-learn's real digits."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from lrq_deploy.durable import write_atomically
from lrq_deploy.progress import ProgressCallback, StageProgress, silent

__all__ = [
    "DigitData",
    "DigitNetwork",
    "TrainedDigits",
    "image_names",
    "load_digit_data",
    "train_digits",
]

HELD_OUT = 450
EPOCHS = 15
_BATCH = 64
# Fixed: the held-out digits are the same for every seed, so that runs compare.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class DigitData:
    """The 1,797 digits as 8-bit grey images, split once and for all.

    Attributes:
        train_pixels: ``[1347, 1, 8, 8]`` uint8.
        train_labels: ``[1347]`` int64.
        test_pixels: ``[450, 1, 8, 8]`` uint8.
        test_labels: ``[450]`` int64.
    """

    train_pixels: Tensor
    train_labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class TrainedDigits:
    """Product of ``train_digits``.

    Attributes:
        model_file: a ``torch.export`` archive, batch dynamic, input ``[N, 1, 8, 8]`` in 0..1.
        image_folder: the held-out digits, one PNG each, in one folder per class.
        accuracy: percent of the held-out digits that the network gets right.
    """

    model_file: Path
    image_folder: Path
    accuracy: float


class DigitNetwork(nn.Module):
    """Four convolutions with BatchNorm and one residual add; 8x8 grey to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 24)
        self.inner = _block(24, 24)
        self.down = _block(24, 48, stride=2)
        self.last = _block(48, 48)
        self.classify = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, 10]`` of ``[N, 1, 8, 8]``."""
        x = self.stem(x)
        x = F.relu(x + self.inner(x))
        x = self.last(self.down(x))
        logits: Tensor = self.classify(x.mean(dim=(2, 3)))
        return logits


def load_digit_data() -> DigitData:
    """The digits as the held-out PNG files store them: 0..16 scaled to 0..255 and rounded."""
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]
    split = train_test_split(
        pixels,
        digits.target.astype(np.int64),
        test_size=HELD_OUT,
        random_state=_SPLIT_SEED,
        stratify=digits.target,
    )
    train_pixels, test_pixels, train_labels, test_labels = map(torch.from_numpy, split)
    return DigitData(train_pixels, train_labels, test_pixels, test_labels)


def image_names() -> frozenset[str]:
    """``<class>/<n>.png`` of every held-out digit, as ``train_digits`` writes them."""
    labels = load_digit_data().test_labels.tolist()
    return frozenset(_image_name(index, label) for index, label in enumerate(labels))


def train_digits(
    folder: Path, seed: int, progress: ProgressCallback = silent, epochs: int = EPOCHS
) -> TrainedDigits:
    """Train the network and write ``model.pt`` and ``digits/<class>/<n>.png``.

    Args:
        folder: receives the files; created where missing.
        seed: of the initial weights and the order of the images.
        progress: receives one event per epoch.
        epochs: passes over the training digits.
    """
    data = load_digit_data()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitNetwork()
        _fit(network, data, StageProgress(progress, "teacher", epochs, HELD_OUT), epochs)
    network.eval()
    with torch.no_grad():
        predicted = network(data.test_pixels.float() / 255).argmax(dim=1)
    accuracy = 100 * float((predicted == data.test_labels).double().mean())
    folder.mkdir(parents=True, exist_ok=True)
    # The network last: by the digits beside it a later demo knows that it may be replaced.
    _write_images(data, folder / "digits")
    _write_archive(network, folder / "model.pt")
    return TrainedDigits(folder / "model.pt", folder / "digits", accuracy)


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _fit(network: DigitNetwork, data: DigitData, stage: StageProgress, epochs: int) -> None:
    images, labels = data.train_pixels.float() / 255, data.train_labels
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=1e-2)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(_BATCH):
            loss = F.cross_entropy(network(images[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            _backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        stage.advance({"loss": total / len(images)})


# ``Tensor.backward`` has no annotations in torch.
_backward: Callable[[Tensor], None] = torch.autograd.backward


def _write_archive(network: DigitNetwork, path: Path) -> None:
    example = torch.zeros(2, 1, 8, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    # Through a buffer: torch warns about any path that does not end in .pt2.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(path, buffer.getvalue())


def _write_images(data: DigitData, folder: Path) -> None:
    for index, (pixels, label) in enumerate(zip(data.test_pixels, data.test_labels, strict=True)):
        path = folder / _image_name(index, int(label))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(path)


def _image_name(index: int, label: int) -> str:
    return f"{label}/{index:03}.png"
