"""Small networks, one per construct, and the way from each to a student."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.graph.capture import capture
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import ActQuantizer
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing

M = TypeVar("M", bound=nn.Module)

aten = torch.ops.aten

SHAPE = (3, 12, 12)
CENTRED = Preprocessing((0.5,) * 3, (0.5,) * 3)
"""Inputs lie in -1..1."""

_captured: dict[tuple[Any, ...], fx.GraphModule] = {}


def images(count: int = 8, shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> Tensor:
    """Noise ``[count, C, H, W]`` in -1..1."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=random) * 2 - 1


def with_statistics(module: M, seed: int = 0) -> M:
    """Evaluation mode, with weights and BatchNorm statistics as no initialisation has them."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith(("running_var",)):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
            elif value.is_floating_point() and value.dim() == 1:
                value.copy_(torch.randn(value.shape, generator=random) * 0.3 + 0.5)
            elif value.is_floating_point():
                fan = max(value[0].numel(), 1)
                value.copy_(torch.randn(value.shape, generator=random) * (2 / fan) ** 0.5)
    return module.eval()


def graph_of(module: nn.Module, shape: tuple[int, int, int] = SHAPE) -> fx.GraphModule:
    """Captured graph of a network with statistics.

    Those of ``ALL`` depend on nothing but the shapes of their weights and are captured once.
    """
    if type(module) not in ALL.values():
        return capture(with_statistics(module), shape)
    key = (type(module), shape, *(tuple(p.shape) for p in module.parameters()))
    if key not in _captured:
        _captured[key] = capture(with_statistics(module), shape)
    return copy.deepcopy(_captured[key])


def targets(graph_module: fx.GraphModule) -> list[Any]:
    """Functions that the graph calls, in order."""
    return [n.target for n in graph_module.graph.nodes if n.op == "call_function"]


def placed(
    module: nn.Module,
    scheme: Scheme | None = None,
    preprocessing: Preprocessing = CENTRED,
    shape: tuple[int, int, int] = SHAPE,
) -> fx.GraphModule:
    """Student of a network, not calibrated."""
    folded = fold_batch_norm(graph_of(module, shape))
    return place_quantizers(folded, scheme or Scheme(), PORTABLE, preprocessing)


def calibrated(
    module: nn.Module,
    scheme: Scheme | None = None,
    shape: tuple[int, int, int] = SHAPE,
    count: int = 8,
) -> fx.GraphModule:
    """Student of a network, calibrated on noise."""
    scheme = scheme or Scheme()
    student = placed(module, scheme, shape=shape)
    calibrate(student, images(count, shape), scheme.act_symmetry == "symmetric", seed=0)
    return student


def quantizers(student: fx.GraphModule) -> dict[str, ActQuantizer]:
    """Activation quantizers by the name of the tensor they stand behind, in graph order."""
    found: dict[str, ActQuantizer] = {}
    for node in student.graph.nodes:
        if node.op == "call_module":
            module = student.get_submodule(str(node.target))
            if isinstance(module, ActQuantizer):
                found[str(node.target).removeprefix("quantizers.")] = module
    return found


def only(items: Iterable[Any]) -> Any:
    """The single item."""
    (item,) = items
    return item


def conv_bn(
    before: int, after: int, stride: int = 1, groups: int = 1, kernel: int = 3
) -> nn.Module:
    """Convolution without bias and BatchNorm."""
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(after),
    )


class Residual(nn.Module):
    """Stem, a block with an identity, one whose shortcut slices and pads, a linear head."""

    def __init__(self, width: int = 4, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.width = width
        self.stem = conv_bn(channels, width)
        self.first = conv_bn(width, width)
        self.second = conv_bn(width, width)
        self.down = conv_bn(width, 2 * width, 2)
        self.last = conv_bn(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = F.relu(x + self.second(F.relu(self.first(x))))
        half = self.width // 2
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        x = F.relu(self.last(F.relu(self.down(x))) + shortcut)
        result: Tensor = self.head(F.avg_pool2d(x, x.shape[2:]).flatten(1))
        return result


class Mobile(nn.Module):
    """Hard-swish, a squeeze-excite gate, depthwise, ReLU6, dropout."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, width, 2)
        self.depthwise = conv_bn(width, width, groups=width)
        self.squeeze = nn.Conv2d(width, 4, 1)
        self.excite = nn.Conv2d(4, width, 1)
        self.project = conv_bn(width, width, kernel=1)
        self.expand = conv_bn(width, width, kernel=1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.relu6(self.depthwise(x))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        y = y * F.hardsigmoid(gate)
        x = x + self.project(y)
        x = F.hardswish(self.expand(x))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        result: Tensor = self.head(F.dropout(x, 0.2, self.training))
        return result


class Dense(nn.Module):
    """BatchNorm in front of convolutions, and concatenation."""

    def __init__(self, width: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.grow = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.BatchNorm2d(2 * width)
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.grow(F.relu(self.norm(x)))], 1)
        x = self.mix(F.relu(self.join(x)))
        result: Tensor = self.head(F.relu(x).mean((2, 3)))
        return result


class Shuffle(nn.Module):
    """Channel split, grouped convolution and channel shuffle."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, width)
        self.branch = conv_bn(width // 2, width // 2, groups=2)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        kept, used = x.chunk(2, 1)
        x = torch.cat([kept, F.relu(self.branch(used))], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Upsampling(nn.Module):
    """Grouped transposed and dilated convolutions."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4, 2)
        self.up = nn.ConvTranspose2d(4, 8, 3, 2, 1, output_padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.up(F.relu(self.stem(x)))))
        result: Tensor = self.head(F.relu(self.wide(x)).mean((2, 3)))
        return result


ALL = {
    "residual": Residual,
    "mobile": Mobile,
    "dense": Dense,
    "shuffle": Shuffle,
    "upsampling": Upsampling,
}
"""One network per family of constructs."""


class ConvolutionHead(nn.Module):
    """The logits come from a convolution, whose padding keeps it one, in float in ONNX Runtime."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.head = nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x)).mean((2, 3), keepdim=True)
        result: Tensor = self.head(x).flatten(1)
        return result
