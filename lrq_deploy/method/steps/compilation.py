"""Kernels made for one student: ``torch.compile``, where a run asks for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lrq_deploy.errors import OptionError

__all__ = ["compiled"]


def compiled(network: nn.Module, device: torch.device) -> Callable[..., Any]:
    """``network`` with its fake quantizers fused into few kernels, compiled at its first call.

    On CUDA a call replays one CUDA graph, and its backward pass another: results and gradients of
    a call are lost at the next one. Shapes are those of the first call; others compile again.

    Args:
        network: on ``device``; what is trained of it stays the same tensors.
        device: where it is called.

    Returns:
        What is called like ``network``. It raises ``OptionError`` where nothing can be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException

    mode = "reduce-overhead" if device.type == "cuda" else None
    fused = torch.compile(network, fullgraph=True, dynamic=False, mode=mode)

    def called(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        try:
            return fused(*inputs)
        except TorchDynamoException as error:
            raise OptionError(
                "--compile needs what makes kernels: a C++ compiler for the CPU, Triton for CUDA",
                str(error).strip().splitlines()[0],
                "install it, or leave --compile out",
            ) from error

    return called
