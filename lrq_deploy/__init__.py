"""Data-free low-bit quantization of PyTorch image classifiers, to a checked integer graph."""

__version__ = "0.1.0"
