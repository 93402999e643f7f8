"""Small image files of noise."""

from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_png(path: Path, seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(seed, height, width)
    Image.fromarray(pixels).save(path)
    return pixels
