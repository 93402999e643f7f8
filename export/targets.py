"""Runtimes that a student can be written for: one description each, in one registry."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from lrq_deploy.errors import OptionError
from lrq_deploy.planning.plan import RuntimeForecast
from lrq_deploy.scheme import Scheme
from lrq_deploy.target import TargetDescription

__all__ = ["REFERENCE", "Target", "TargetChoice", "TargetRegistry", "targets"]

REFERENCE = "onnxruntime"
"""In every bundle: the one runtime that runs on any machine, so all checks are made with it."""


class Target(RuntimeForecast, Protocol):
    """A dialect of quantized ONNX and the runtime that reads it, with what ``plan`` says of it."""

    @property
    def name(self) -> str:
        """What the user types."""

    @property
    def title(self) -> str:
        """What reports call the runtime."""

    @property
    def file_name(self) -> str:
        """Name of the graph inside a bundle."""

    @property
    def carrier_qmax(self) -> int:
        """Largest integer of a non-negative activation that its kernels hold."""

    def check(self, scheme: Scheme) -> None:
        """Refuse, before anything is trained, what the runtime cannot run.

        Raises:
            OptionError: with the reason.
        """

    def lower(self, model: ir.Model) -> None:
        """Turn the neutral graph (see ``neutral``) into the dialect, in place.

        ONNX Runtime must run it with optimisations off: so it is rehearsed and compared. The
        integers of the quantizer ``x`` are the tensor ``x.stored``, by which a fault is located.

        Raises:
            ExportError: the network has a form that the dialect cannot state.
        """


@dataclass(frozen=True)
class TargetChoice:
    """What a run writes.

    Attributes:
        targets: sorted by name.
        refused: why each other runtime that was in question cannot run the scheme, by name.
    """

    targets: tuple[Target, ...]
    refused: Mapping[str, str]

    @property
    def limits(self) -> TargetDescription:
        """What every written graph can hold, so that one scale table serves them all."""
        names = "+".join(target.name for target in self.targets)
        return TargetDescription(names, min(target.carrier_qmax for target in self.targets))

    def describe_refused(self) -> tuple[str, ...]:
        """One sentence per refused target."""
        return tuple(f"no graph for {name}: {reason}" for name, reason in self.refused.items())


class TargetRegistry:
    """Targets by name; refuses collisions."""

    def __init__(self, entries: Iterable[Target] = ()) -> None:
        self._entries: dict[str, Target] = {}
        for entry in entries:
            self.register(entry)

    def register(self, target: Target) -> None:
        """Add a target.

        Raises:
            OptionError: the name or the file name is taken.
        """
        for other in self._entries.values():
            taken = {target.name, target.file_name} & {other.name, other.file_name}
            if taken:
                raise OptionError(
                    "names and file names of targets must be unique",
                    ", ".join(sorted(taken)),
                    "choose others",
                )
        self._entries[target.name] = target

    def get(self, name: str) -> Target:
        """Look a target up.

        Raises:
            OptionError: no target has the name.
        """
        if name not in self._entries:
            raise OptionError(
                "--target must be a known runtime, all, or auto",
                repr(name),
                f"Available names are: {', '.join(self.names())}",
            )
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def dialects(self, files: Container[str]) -> dict[str, str]:
        """Names of the graphs among ``files``, by target; without that of ``REFERENCE``."""
        named = {name: self._entries[name].file_name for name in self.names() if name != REFERENCE}
        return {name: file for name, file in named.items() if file in files}

    def choose(self, request: str, scheme: Scheme) -> TargetChoice:
        """The targets of a run; ``REFERENCE`` is always among them.

        Args:
            request: a name, ``all``, or ``auto`` for all that can run the scheme.
            scheme: bit widths and zero points.

        Raises:
            OptionError: no target has the name, or one that was asked for cannot run the scheme.
        """
        if request not in ("all", "auto"):
            self.get(request)
        wanted = self.names() if request in ("all", "auto") else sorted({REFERENCE, request})
        chosen: list[Target] = []
        refused: dict[str, str] = {}
        for name in wanted:
            try:
                self._entries[name].check(scheme)
            except OptionError as error:
                if request != "auto":
                    raise
                refused[name] = f"{error.rule}; {error.remedy}"
            else:
                chosen.append(self._entries[name])
        return TargetChoice(tuple(chosen), refused)


def targets() -> TargetRegistry:
    """The registry with every target of this project."""
    from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
    from lrq_deploy.export.dialects.tensorrt import TensorRTTarget

    return TargetRegistry([OnnxRuntimeTarget(), TensorRTTarget()])
