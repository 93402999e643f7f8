"""The long-range generator: from a latent vector and a class to an input image.

Our reading of LRQ (arXiv 2211.06816, abstract: "long-range attention by large kernel
convolution inside the generator") on the layout of GDFQ (arXiv 2003.03603): a linear layer to a
small map, then doublings with a convolution each, and attention where a map has 8 to 28 pixels
a side (above, plain convolutions: attention there costs more than the network it serves).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrq_deploy.method.images.attention import AttentionBlock
from lrq_deploy.method.images.doubling import convolve_doubled
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

__all__ = ["LATENT_SIZE", "LongRangeGenerator", "input_bounds"]

LATENT_SIZE = 128
SMALLEST_MAP = 8
WIDEST = 64
NARROWEST = 16
ATTENTION_SIDES = (8, 28)
UNKNOWN_BOUND = 2.5
"""Without known preprocessing inputs start in -2.5..2.5 and the bounds are learned."""


class LongRangeGenerator(nn.Module):
    """Class-conditional generator of normalised inputs.

    Args:
        input_shape: ``(C, H, W)`` of the images to make.
        num_classes: 2 or more; 1 or more labels.
        preprocessing: bounds of the inputs; where unknown, the bounds are learned.
        long_range: large-kernel attention (off: the ablation without it).
        task: whether it is asked for classes or for sets of labels.
    """

    latent_shape = (LATENT_SIZE,)

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        preprocessing: Preprocessing,
        long_range: bool = True,
        task: Task = "multiclass",
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.sizes = map_sizes(height, width)
        self.num_classes = num_classes
        self.task: Task = task
        first = self.sizes[0]
        widths = [max(WIDEST >> max(i - 1, 0), NARROWEST) for i in range(len(self.sizes))]
        self.embedding = nn.Embedding(num_classes, LATENT_SIZE)
        self.project = nn.Linear(2 * LATENT_SIZE, widths[0] * first[0] * first[1])
        self.first_norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(
            _Stage(before, after, size, long_range)
            for before, after, size in zip([widths[0], *widths], widths, self.sizes, strict=False)
        )
        self.paint = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.paint_norm = nn.BatchNorm2d(channels, affine=False)
        low, high = input_bounds(channels, preprocessing)
        centre, reach = (low + high) / 2, (high - low) / 2
        self.centre = nn.Parameter(centre[:, None, None], requires_grad=not preprocessing.known)
        self.reach = nn.Parameter(reach[:, None, None], requires_grad=not preprocessing.known)

    def embed(self, labels: Tensor) -> Tensor:
        """``[N, LATENT_SIZE]`` of classes ``[N]``, sums of them for sets of labels ``[N, K]``."""
        if labels.dim() == 2:
            return labels @ self.embedding.weight
        result: Tensor = self.embedding(labels)
        return result

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest input per channel, each ``[C, 1, 1]``, known or learned."""
        reach = self.reach.detach().abs()
        return self.centre.detach() - reach, self.centre.detach() + reach

    def forward(self, latent: Tensor, class_vector: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` from latents and class vectors, both ``[N, LATENT_SIZE]``."""
        code = torch.cat([latent, F.normalize(class_vector) * math.sqrt(LATENT_SIZE)], 1)
        x = self.project(code).unflatten(1, (-1, *self.sizes[0]))
        x = self.first_norm(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        x = torch.tanh(self.paint_norm(self.paint(x)))
        return self.centre + self.reach * x


def map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the maps from the first to the image, each about twice the one before."""
    sizes = [(height, width)]
    while min(sizes[0]) > SMALLEST_MAP:
        sizes.insert(0, (math.ceil(sizes[0][0] / 2), math.ceil(sizes[0][1] / 2)))
    return sizes


class _Stage(nn.Sequential):
    """A doubling, a convolution with its norm and activation, and attention where maps are small.

    Args:
        before, after: channels that it reads and makes.
        size: ``(H, W)`` of the maps that it makes.
        long_range: whether it may have attention.
    """

    def __init__(self, before: int, after: int, size: tuple[int, int], long_range: bool) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(0.2),
        ]
        if long_range and ATTENTION_SIDES[0] <= min(size) <= ATTENTION_SIDES[1]:
            layers.append(AttentionBlock(after, *size))
        super().__init__(*layers)
        self._size = size

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[N, after, *size]`` of maps ``[N, before, h, w]`` of at most that size."""
        convolution, *others = self
        height, width = x.shape[2:]
        if self._size == (2 * height, 2 * width) and not x.is_cuda:
            x = convolve_doubled(x, convolution.get_parameter("weight"))
        else:
            if self._size != (height, width):
                x = F.interpolate(x, size=self._size, mode="nearest")
            x = convolution(x)
        for layer in others:
            x = layer(x)
        return x


def input_bounds(channels: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Lowest and highest input per channel, each ``[C]``; a first guess where unknown."""
    if not preprocessing.known:
        bound = torch.full((channels,), UNKNOWN_BOUND)
        return -bound, bound
    low, high = zip(*preprocessing.bounds(), strict=True)
    return torch.tensor(low), torch.tensor(high)
