"""One small classifier per family of networks, for images of 32 x 32 and 10 classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FAMILIES",
    "convnext",
    "densenet",
    "efficientnet",
    "mobilenet_v2",
    "shufflenet",
    "vgg",
    "vision_transformer",
    "wide_resnet",
]

CLASSES = 10
GROWTH = 12


def _layer(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), activation())


def _classifier(*layers: nn.Module, width: int) -> nn.Sequential:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers, *head)


class _PreActivation(nn.Module):
    """A residual block with BatchNorm first (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(x))
        shortcut: Tensor = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(y)
        result: Tensor = self.second(F.relu(self.second_norm(self.first(y)))) + shortcut
        return result


def wide_resnet() -> nn.Sequential:
    """WideResNet-16-2 (arXiv 1605.07146)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    width = 16
    for outputs, stride in ((32, 1), (64, 2), (128, 2)):
        layers += [_PreActivation(width, outputs, stride), _PreActivation(outputs, outputs, 1)]
        width = outputs
    return _classifier(*layers, nn.BatchNorm2d(width), nn.ReLU(), width=width)


class _Dense(nn.Module):
    """A layer whose result is concatenated with its input."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * GROWTH, 1, bias=False)),
            *(nn.BatchNorm2d(4 * GROWTH), nn.ReLU()),
            nn.Conv2d(4 * GROWTH, GROWTH, 3, 1, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def densenet() -> nn.Sequential:
    """DenseNet (arXiv 1608.06993) of 3 blocks of 5 layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, 2 * GROWTH, 3, 1, 1, bias=False)]
    width = 2 * GROWTH
    for block in range(3):
        if block:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        for _ in range(5):
            layers.append(_Dense(width))
            width += GROWTH
    return _classifier(*layers, nn.BatchNorm2d(width), nn.ReLU(), width=width)


class _InvertedResidual(nn.Module):
    """Expansion, depthwise layer, projection; with SiLU also a squeeze-excite gate."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activation: type[nn.Module] = nn.SiLU
    ) -> None:
        super().__init__()
        width, squeezed = 4 * inputs, max(inputs // 2, 4)
        self.expand = nn.Sequential(
            _layer(inputs, width, 1, activation=activation),
            _layer(width, width, 3, stride, width, activation),
        )
        self.gate: nn.Sequential | None = None
        if activation is nn.SiLU:
            self.gate = nn.Sequential(
                *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, squeezed, 1), nn.SiLU()),
                *(nn.Conv2d(squeezed, width, 1), nn.Sigmoid()),
            )
        self.project = _layer(width, outputs, 1, activation=nn.Identity)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        y = self.project(y if self.gate is None else y * self.gate(y))
        result: Tensor = x + y if self.residual else y
        return result


def efficientnet() -> nn.Sequential:
    """EfficientNet (arXiv 1905.11946) of 6 blocks."""
    layers: list[nn.Module] = [_layer(3, 24, activation=nn.SiLU)]
    width = 24
    for outputs, stride in ((24, 1), (40, 2), (40, 1), (64, 2), (64, 1), (96, 1)):
        layers.append(_InvertedResidual(width, outputs, stride))
        width = outputs
    return _classifier(*layers, _layer(width, 256, 1, activation=nn.SiLU), width=256)


def mobilenet_v2() -> nn.Sequential:
    """MobileNetV2 (arXiv 1801.04381) of 6 blocks."""
    layers: list[nn.Module] = [_layer(3, 24, activation=nn.ReLU6)]
    width = 24
    for outputs, stride in ((24, 1), (40, 2), (40, 1), (64, 2), (64, 1), (96, 1)):
        layers.append(_InvertedResidual(width, outputs, stride, nn.ReLU6))
        width = outputs
    return _classifier(*layers, _layer(width, 256, 1, activation=nn.ReLU6), width=256)


def vgg() -> nn.Sequential:
    """VGG (arXiv 1409.1556) of 6 layers, with BatchNorm."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (32, 64, 128):
        layers += [_layer(inputs, width), _layer(width, width), nn.MaxPool2d(2)]
        inputs = width
    return _classifier(*layers, width=inputs)


class _Shuffle(nn.Module):
    """One half of the channels passes, then all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            _layer(half, half, 1),
            _layer(half, half, 3, 1, half, nn.Identity),
            _layer(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.chunk(2, 1)
        y = torch.cat([kept, self.branch(moved)], 1)
        return F.channel_shuffle(y, 2)


def shufflenet() -> nn.Sequential:
    """ShuffleNet V2 (arXiv 1807.11164) of 8 blocks."""
    layers: list[nn.Module] = [_layer(3, 48)]
    width = 48
    for outputs in (96, 192):
        layers += [_Shuffle(width) for _ in range(3)]
        layers += [_layer(width, width, 3, 2, width, nn.Identity), _layer(width, outputs, 1)]
        width = outputs
    return _classifier(*layers, _Shuffle(width), _Shuffle(width), width=width)


class _ConvNeXt(nn.Module):
    """7x7 depthwise, BatchNorm, two linear layers with GELU, a scale per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.BatchNorm2d(width)),
            *(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)),
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.scale * self.branch(x)
        return result


def convnext() -> nn.Sequential:
    """ConvNeXt (arXiv 2201.03545) of 4 blocks, with BatchNorm."""
    return _classifier(
        *(nn.Conv2d(3, 48, 2, 2), nn.BatchNorm2d(48), _ConvNeXt(48), _ConvNeXt(48)),
        *(nn.BatchNorm2d(48), nn.Conv2d(48, 96, 2, 2), _ConvNeXt(96), _ConvNeXt(96)),
        nn.BatchNorm2d(96),
        width=96,
    )


class _Patches(nn.Module):
    """An image as rows, one per patch of 4 x 4, each with a learned place."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(1, count, width))

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.patch(x).flatten(2).transpose(1, 2)
        return rows + self.place


class _Attention(nn.Module):
    """A block of a transformer with LayerNorm first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.ask(self.first_norm(x)).chunk(3, 2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.answer(seen)
        result: Tensor = x + self.think(self.second_norm(x))
        return result


class _MeanOfRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def vision_transformer() -> nn.Sequential:
    """A vision transformer (arXiv 2010.11929) of 4 blocks and 64 patches: no BatchNorm."""
    width = 96
    blocks = [_Attention(width, 4) for _ in range(4)]
    head = (nn.LayerNorm(width), _MeanOfRows(), nn.Linear(width, CLASSES))
    return nn.Sequential(_Patches(width, 64), *blocks, *head)


FAMILIES = {
    build.__name__: build
    for build in (
        *(wide_resnet, densenet, efficientnet, mobilenet_v2, vgg, shufflenet, convnext),
        vision_transformer,
    )
}
