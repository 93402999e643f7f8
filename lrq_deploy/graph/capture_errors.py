"""What is said where a network is no classifier, and the part of an error that is news of it."""

import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import fx, nn

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError

__all__ = [
    "PACKAGE",
    "is_of_the_network",
    "of_archive",
    "refuse_boxes",
    "refuse_branches",
    "refuse_script_parts",
    "shortened",
]

PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"
"""Folder of this project's code."""

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_LIBRARY = sysconfig.get_paths()["stdlib"]

_SHOWN = 300
"""Characters of an error of torch, which may spell out a graph; its beginning says the most."""


def is_of_the_network(file: str) -> bool:
    """Whether a file of a traceback is of a network, not of torch, of Python or of this project."""
    library = file.startswith(_LIBRARY) and "site-packages" not in file
    return not library and not file.startswith((_TORCH, PACKAGE, "<"))


def refuse_boxes(result: object) -> None:
    """Refuse what a detector returns for a batch, as those of torchvision and transformers do.

    Raises:
        UnsupportedNetworkError: it is a mapping with boxes, or a sequence of such.
    """
    first = result[0] if isinstance(result, list | tuple) and result else result
    keys = list(first) if isinstance(first, Mapping) else []
    named = [key for key in keys if isinstance(key, str)]
    if any("boxes" in key for key in named):
        raise UnsupportedNetworkError(
            "the network must return logits [N, classes]",
            f"{', '.join(named)} per image, as a detector gives",
            "detection heads are not supported; wrap a classifier",
        )


def refuse_branches(graph: fx.Graph) -> None:
    """Refuse what picks the operators by the values of an image, or repeats them.

    Raises:
        UnsupportedNetworkError: names ``cond``, ``while_loop`` or another of torch's.
    """
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedNetworkError(
                "every image must pass the same operators",
                f"torch's {node.target} at {node.name}, which holds graphs of its own",
                "take branches and loops of torch out of forward",
            )


def refuse_script_parts(network: nn.Module) -> None:
    """Refuse a network of Python code with a part of TorchScript, whose weights torch loses.

    Raises:
        CaptureError: names the part.
    """
    for name, part in network.named_modules():
        if isinstance(part, torch.jit.ScriptModule) and [*part.parameters(), *part.buffers()]:
            raise CaptureError(
                "a network must be TorchScript as a whole, or in no part that has weights",
                f"{name}, which is TorchScript",
                "pass the network with that part as it was before torch.jit.script or trace",
            )


def of_archive(error: UnsupportedNetworkError) -> UnsupportedNetworkError:
    """The same for a network from an archive, which does not follow when its source is edited."""
    if "--" in error.remedy or "export" in error.remedy:
        return error
    again = f"{error.remedy}; then export the network again, in evaluation mode"
    return UnsupportedNetworkError(error.rule, error.received, again)


def shortened(line: str) -> str:
    """The beginning of a line that is too long to read."""
    return line if len(line) <= _SHOWN else line[:_SHOWN].rstrip() + " ..."
