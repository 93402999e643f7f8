"""Calibration: give every quantizer and layer of a student its first scale."""

from typing import Any

import torch
from torch import Tensor, fx

from lrq_deploy.calibration.ranges import MIN_SCALE, search_act_range, search_weight_scale
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled

__all__ = ["calibrate"]

SAMPLE_SIZE = 131_072
"""Values kept per tensor: enough for a stable search, small enough to keep in memory."""


def calibrate(student: fx.GraphModule, images: Tensor, symmetric: bool, seed: int) -> None:
    """Set all scales of ``student`` in place, by range search.

    Weights are searched per output channel. Activations are those of the float network on
    ``images`` ``[N, C, H, W]``, sampled at random by ``seed``.
    """
    for module in student.modules():
        if isinstance(module, QuantizedLayer):
            axis = module.spec.channel_axis
            module.set_scale(search_weight_scale(module.weight, axis, module.bounds))
    set_enabled(student, False)
    samples = _Observer(student, seed).observe(images)
    set_enabled(student, True)
    for path, values in samples.items():
        quantizer = student.get_submodule(path)
        if isinstance(quantizer, ActQuantizer):
            if quantizer.known_range is not None:
                largest = max(quantizer.bounds.qmax, -quantizer.bounds.qmin)
                quantizer.set_range(max(quantizer.known_range / largest, MIN_SCALE))
            else:
                quantizer.set_range(
                    *search_act_range(values, quantizer.bounds, quantizer.signed, symmetric)
                )


class _Observer(fx.Interpreter):
    """Runs a student and keeps a random sample of what each quantizer receives."""

    def __init__(self, student: fx.GraphModule, seed: int) -> None:
        super().__init__(student)
        self._random = torch.Generator().manual_seed(seed)
        self._samples: dict[str, list[Tensor]] = {}
        self._batches = 1

    def observe(self, images: Tensor, batch_size: int = 64) -> dict[str, Tensor]:
        """Flat sample per quantizer path."""
        batches = images.split(batch_size)
        self._batches = len(batches)
        with torch.no_grad():
            for batch in batches:
                self.run(batch)
        return {path: torch.cat(parts) for path, parts in self._samples.items()}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.module.get_submodule(target)
        result = super().call_module(target, args, kwargs)
        if isinstance(module, ActQuantizer):
            values = result.flatten()
            wanted = min(SAMPLE_SIZE // self._batches, values.numel())
            index = torch.randint(values.numel(), (wanted,), generator=self._random)
            self._samples.setdefault(target, []).append(values[index.to(values.device)])
        return result
