"""A TorchScript network as a module that ``torch.export`` traces."""

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lrq_deploy.errors import CaptureError

__all__ = ["ScriptedNetwork"]


class ScriptedNetwork(nn.Module):
    """Runs a script, whose operators the tracer sees one by one.

    Args:
        script: the network as ``torch.jit.load`` gives it; it is put into evaluation mode and
            float32.

    Raises:
        CaptureError: it was traced in training mode, which ``eval()`` does not change.
    """

    @classmethod
    def copy_of(cls, script: torch.jit.ScriptModule) -> "ScriptedNetwork":
        """Of a script in memory, which stays as it is and may be on any device."""
        # One that was not loaded runs hooks of Python, which the tracer replaces.
        stored = io.BytesIO()
        torch.jit.save(script, stored)
        stored.seek(0)
        return cls(torch.jit.load(stored, map_location="cpu"))

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        _refuse_training(script)
        # In a tuple it is no submodule, whose tensors the tracer would try to swap.
        self._script = (script.eval().float(),)
        for tensor in script.parameters():
            tensor.requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        """What the script returns for ``[N, C, H, W]``."""
        return self._script[0](images)

    def stored(self) -> dict[str, Tensor]:
        """Parameters and buffers of the script by name."""
        return dict(self._script[0].state_dict(keep_vars=True))

    def name_constants(self, exported: ExportedProgram) -> None:
        """Give the tensors of a trace, which are constants to the tracer, their names here."""
        names = {id(tensor): name for name, tensor in self.stored().items()}
        for spec in exported.graph_signature.input_specs:
            if spec.kind == InputKind.CONSTANT_TENSOR and spec.target is not None:
                name = names.get(id(exported.constants[spec.target]))
                if name is not None:
                    exported.constants[name] = exported.constants.pop(spec.target)
                    spec.target = name


def _refuse_training(script: torch.jit.ScriptModule) -> None:
    graph = getattr(script, "inlined_graph", None)  # which owns its nodes; none without forward
    for node in graph.nodes() if graph else ():
        if node.kind() != "aten::batch_norm":
            continue
        *_, mean, _, training, _, _, _ = node.inputs()
        # A script asks its module for the mode, which is no constant of the graph. Without
        # stored statistics the mode changes nothing: weights are standardised so.
        if training.toIValue() and not mean.node().mustBeNone():
            raise CaptureError(
                "a network of TorchScript must have been traced in evaluation mode",
                "a BatchNorm that normalises by the statistics of the batch",
                "call eval() on the network and trace it again, or pass --arch with its weights",
            )
