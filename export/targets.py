"""Runtimes that a student can be written for: one description each, in one registry."""

from collections.abc import Iterable
from typing import Protocol

import onnx_ir as ir

from lrq_deploy.errors import OptionError
from lrq_deploy.scheme import Scheme

__all__ = ["Target", "TargetRegistry", "targets"]


class Target(Protocol):
    """A dialect of quantized ONNX and the runtime that reads it."""

    @property
    def name(self) -> str:
        """What the user types."""

    @property
    def file_name(self) -> str:
        """Name of the graph inside a bundle."""

    def check(self, scheme: Scheme) -> None:
        """Refuse, before anything is trained, what the runtime cannot run.

        Raises:
            OptionError: with the reason.
        """

    def lower(self, model: ir.Model) -> None:
        """Turn the neutral graph (see ``neutral``) into the dialect, in place.

        Raises:
            ExportError: the network has a form that the dialect cannot state.
        """


class TargetRegistry:
    """Targets by name; refuses collisions."""

    def __init__(self, entries: Iterable[Target] = ()) -> None:
        self._entries: dict[str, Target] = {}
        for entry in entries:
            self.register(entry)

    def register(self, target: Target) -> None:
        """Add a target.

        Raises:
            OptionError: the name is taken.
        """
        if target.name in self._entries:
            raise OptionError(
                "target names must be unique", repr(target.name), "choose another name"
            )
        self._entries[target.name] = target

    def get(self, name: str) -> Target:
        """Look a target up.

        Raises:
            OptionError: no target has the name.
        """
        if name not in self._entries:
            raise OptionError(
                "target must be a known runtime",
                repr(name),
                f"Available names are: {', '.join(self.names())}",
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def accepting(self, scheme: Scheme) -> list[Target]:
        """The targets that can run a scheme, sorted by name."""
        return [
            self._entries[name] for name in self.names() if _accepts(self._entries[name], scheme)
        ]


def _accepts(target: Target, scheme: Scheme) -> bool:
    try:
        target.check(scheme)
    except OptionError:
        return False
    return True


def targets() -> TargetRegistry:
    """The registry with every target of this project."""
    from lrq_deploy.export.onnxruntime_dialect import OnnxRuntimeTarget
    from lrq_deploy.export.tensorrt_dialect import TensorRTTarget

    return TargetRegistry([OnnxRuntimeTarget(), TensorRTTarget()])
