"""Source of factories that files for ``--arch FILE.py:FACTORY`` share."""

__all__ = ["SORTING"]

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
