"""The one error tree. Every message states the rule, what was received and the remedy."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BoundError",
    "BundleError",
    "CaptureError",
    "CheckpointError",
    "DeviceMemoryError",
    "DivergenceError",
    "ExportError",
    "ImageError",
    "LrqError",
    "OptionError",
    "OutputError",
    "ParityError",
    "RankLostError",
    "StateFileError",
    "UnsupportedNetworkError",
    "WriteError",
]


class LrqError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        rule: what must hold, as one clause.
        received: what was found instead.
        remedy: what the user can do about it.

    Attributes:
        told_elsewhere: whether another process of the run says it.
    """

    told_elsewhere = False

    def __init__(self, rule: str, received: str, remedy: str) -> None:
        super().__init__(f"{rule}; got {received}; {remedy}")
        self.rule = rule
        self.received = received
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rule, self.received, self.remedy)


class OptionError(LrqError):
    """An option is out of range or contradicts another one."""


class CheckpointError(LrqError):
    """A model file or architecture cannot be read or does not fit."""


class CaptureError(LrqError):
    """``torch.export`` cannot capture the network."""


class UnsupportedNetworkError(LrqError):
    """The network was captured but lies outside what the method covers."""


class ImageError(LrqError):
    """The image folder cannot be used."""


class OutputError(LrqError):
    """The output directory cannot be written."""


class WriteError(OutputError):
    """The disk refused what the work had to write."""


class DivergenceError(LrqError):
    """A loss became NaN or infinite; names the stage and the loss terms.

    Args:
        rule, received, remedy: as of every error.
        state: tensors by name of what was trained, as they last were with finite losses.
    """

    def __init__(
        self, rule: str, received: str, remedy: str, state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(rule, received, remedy)
        self.state: Mapping[str, Any] = dict(state or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rule, self.received, self.remedy, self.state)


class DeviceMemoryError(LrqError):
    """The smallest piece of a step does not fit into the memory of the device."""


class ExportError(LrqError):
    """The quantized graph cannot be written or loaded by a runtime."""


class ParityError(LrqError):
    """Two forms of the same network differ by more than the stated bound."""


class BoundError(ExportError):
    """A figure of a finished graph misses a bound that the user stated."""


class StateFileError(LrqError):
    """The kept state of a run is damaged or belongs to another run."""


class RankLostError(LrqError):
    """A process of a run that several share has died or does not answer."""


class BundleError(LrqError):
    """A bundle is incomplete, changed or of another schema."""
