"""Large-kernel attention: long-range weighting by a decomposed large convolution.

Guo et al., "Visual Attention Network", arXiv 2202.09741, section 3.1: a K x K convolution is
decomposed into a depthwise (2d-1) x (2d-1), a depthwise ceil(K/d) x ceil(K/d) with dilation d,
and a 1x1 convolution; their output multiplies the input (no sigmoid).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrq_deploy.method.steps.depthwise import depthwise

__all__ = ["AttentionBlock", "LargeKernelAttention", "attention_geometry"]

LAYER_SCALE = 1e-2
"""First weight of the residual branch (section 3.2): the gate is unbounded and must start small."""


def attention_geometry(height: int, width: int) -> tuple[int, int]:
    """Kernel size K and dilation d that still see data on a small map.

    K = 21, d = 3 from 16 pixels on, as published; below, the dilated taps would fall on zero
    padding, so 13 with 2 from 8 pixels, and 5 with 1 under that.
    """
    side = min(height, width)
    if side >= 16:
        return 21, 3
    return (13, 2) if side >= 8 else (5, 1)


@contextmanager
def _float32_on_cpu(x: Tensor) -> Iterator[Tensor]:
    """``x`` in float32, and no autocast: CPU kernels of depthwise bfloat16 are slower."""
    if x.is_cuda:
        yield x
        return
    with torch.autocast(x.device.type, enabled=False):
        yield x.float()


class LargeKernelAttention(nn.Module):
    """``x * conv1x1(dilated_depthwise(depthwise(x)))``; maps ``[N, C, H, W]`` to the same."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        local = 2 * dilation - 1
        taps = math.ceil(kernel / dilation)
        taps += 1 - taps % 2
        self.dilation = dilation
        self.local = nn.Conv2d(channels, channels, local, padding=local // 2, groups=channels)
        self.distant = nn.Conv2d(channels, channels, taps, padding=taps // 2, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weight every position by what surrounds it, near and far."""
        with _float32_on_cpu(x) as seen:
            weighted = self._dilated(self.local(seen))
        gate: Tensor = self.mix(weighted)
        return x * gate

    def _dilated(self, x: Tensor) -> Tensor:
        """The dilated convolution as an undilated one on ``dilation**2`` interleaved maps.

        CPU kernels for dilated depthwise convolutions are many times slower.
        """
        if self.dilation == 1 or x.is_cuda:
            return F.conv2d(
                x,
                self.distant.weight,
                self.distant.bias,
                padding=self.distant.kernel_size[0] // 2 * self.dilation,
                dilation=self.dilation,
                groups=x.shape[1],
            )
        step = self.dilation
        batch, channels, height, width = x.shape
        padded = F.pad(x, (0, -width % step, 0, -height % step))
        rows, columns = padded.shape[2] // step, padded.shape[3] // step
        split = padded.reshape(batch, channels, rows, step, columns, step)
        maps = split.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels, rows, columns)
        maps = maps.contiguous(memory_format=torch.channels_last)
        mixed: Tensor = depthwise(maps, self.distant.weight, self.distant.bias)
        joined = mixed.reshape(batch, step, step, channels, rows, columns)
        whole = joined.permute(0, 3, 4, 1, 5, 2).reshape(padded.shape)
        return whole[:, :, :height, :width]


class AttentionBlock(nn.Module):
    """Norm, 1x1, GELU, attention, 1x1, added to the input with a small learned weight."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        kernel, dilation = attention_geometry(height, width)
        self.norm = nn.BatchNorm2d(channels)
        self.enter = nn.Conv2d(channels, channels, 1)
        self.attend = LargeKernelAttention(channels, kernel, dilation)
        self.leave = nn.Conv2d(channels, channels, 1)
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input ``[N, C, H, W]``."""
        branch: Tensor = self.leave(self.attend(F.gelu(self.enter(self.norm(x)))))
        return x + self.layer_scale * branch
