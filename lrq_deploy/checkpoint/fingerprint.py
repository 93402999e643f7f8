"""A fingerprint of a network's weights, so that a bundle can name its teacher."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["fingerprint"]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over the names (sorted), dtypes, shapes and bytes of all tensors.

    The order of the mapping, strides and devices do not matter; every bit of a value does.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        shape = ",".join(str(n) for n in tensor.shape)
        digest.update(f"{len(name)}:{name}|{tensor.dtype}|{shape}|".encode())
        flat = tensor.cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
