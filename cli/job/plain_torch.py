"""What a caller of ``lrq_deploy.quantize`` has switched on in torch is off during a run."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["plain_torch"]


@contextmanager
def plain_torch(device: torch.device) -> Iterator[None]:
    """Gradients, no autocast, new tensors in float32 and on the CPU; afterwards as before.

    Args:
        device: of the run.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            # It takes torch.no_grad back too.
            stack.enter_context(torch.inference_mode(False))
            # Networks are captured and checked on the CPU, wherever they are trained.
            for kind in sorted({"cpu", device.type}):
                stack.enter_context(torch.autocast(kind, enabled=False))
            # Such a mode has a price per call, which only who has one already pays.
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(default)
