"""A CUDA device that has shapes and no values: what stands on the wrong device is an error.

``FakeTensorMode`` computes devices, types and shapes, as ``torch.compile`` does while it traces.
What needs a driver is replaced: gradients are empty tensors, generators are those of the CPU.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrq_deploy.calibration.image_pool import ImagePool
from lrq_deploy.method.fitting.augmented_batches import AugmentedBatches
from lrq_deploy.method.images import diversity
from lrq_deploy.method.steps import precision
from support.stages import draw_unwatched, unwatched

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let tensors be on ``CUDA``, and say where those of two devices meet."""
    with pytest.MonkeyPatch.context() as patch:
        # What works on images and random numbers on the CPU, and needs their values.
        draw_unwatched(patch)
        unwatched(patch, AugmentedBatches, "__init__")
        patch.setattr(diversity, "_beside_another", lambda labels: torch.arange(len(labels)))
        unwatched(patch, copy, "deepcopy")
        patch.setattr(ImagePool, "put", _put)
        patch.setattr(nn.Module, "to", _to)
        # Sizes of weights and biases, for their rates.
        patch.setattr(Tensor, "__float__", lambda tensor: 1.0)
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "batch_norm_update_stats", _moments)
        patch.setattr(precision, "multiplies_bfloat16", lambda device: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torch.autograd, "backward", _backward)
        patch.setattr(Tensor, "backward", _backward)
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield


def _put(pool: ImagePool, start: int, images: Tensor) -> None:
    assert images.device.type == "cpu"


def _to(module: nn.Module, *wanted: Any, memory_format: Any = None) -> nn.Module:
    """``Module.to``, which cannot exchange the tensors of a module for such of this mode."""

    def moved(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(*wanted) if wanted else tensor.detach()
        formed = memory_format is not None and tensor.dim() == 4
        return tensor.contiguous(memory_format=memory_format) if formed else tensor

    # Modules share tensors, which must stay one.
    known: dict[int, tuple[Tensor, Tensor]] = {}
    for part in module.modules():
        tables: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in known:
                    new = moved(tensor)
                    if isinstance(tensor, nn.Parameter):
                        new = nn.Parameter(new, tensor.requires_grad)
                    known[id(tensor)] = (tensor, new)
                if tensor is not None:
                    table[name] = known[id(tensor)][1]
    return module


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> "_Generator":
        return super().__new__(cls)


def _moments(x: Tensor, mean: Tensor, var: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    assert x.device == mean.device == var.device
    return torch.empty_like(mean), torch.empty_like(var)


def _backward(tensors: Any, *gradients: Any, **options: Any) -> None:
    """Give a gradient to every leaf that ``tensors`` were made from."""
    roots = [tensors] if isinstance(tensors, Tensor) else tensors
    pending: list[Any] = [tensor.grad_fn for tensor in roots]
    seen: set[Callable[..., Any]] = set()
    while pending:
        function = pending.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if hasattr(function, "variable"):
            function.variable.grad = torch.empty_like(function.variable)
        pending += [before for before, _ in function.next_functions]
