"""Source of factories for files of ``--arch FILE.py:FACTORY``."""

__all__ = ["REFUSED", "SORTING"]

SORTING = """
def sorting():
    class Sorting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            x = self.body(x)
            x = x - x.median(3, keepdim=True).values  # no ONNX form
            return self.head(x.mean((2, 3)))

    return Sorting()
"""

REFUSED = """
import torch
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )

def branching():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x):
            x = self.body(x).mean((2, 3))
            return x if float(x.sum()) > 0 else -x  # here

    return Branching()

def segmenting():
    class Segmenting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x):
            x = self.body(x)
            return {"out": x, "aux": x + 1}

    return Segmenting()

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 100, 5))
"""
"""``build`` is taken by ``quantize``, the others are refused."""
