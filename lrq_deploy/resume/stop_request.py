"""Ctrl-C and SIGTERM: the first asks the run to stop where it can continue, a second ends it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["RunStopped", "StopRequest", "stop_on_signals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunStopped(KeyboardInterrupt):
    """The run was asked to stop, and has; no library takes this for an error of its own.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    def __reduce__(self) -> tuple[type["RunStopped"], tuple[int]]:
        return type(self), (self.number,)


class StopRequest:
    """Whether a signal came.

    Attributes:
        number: of the signal; None so far.
        deferred: whether to wait for the end of a step, whose state is then kept.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.deferred = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; from now on the same signals end the process at once.

        Raises:
            RunStopped: nothing is to be kept first.
        """
        self.number = number
        for known in _heeded():
            signal.signal(known, signal.SIG_DFL)
        self.obey(self.deferred)

    def obey(self, deferred: bool = False) -> None:
        """End the run if a signal came.

        Raises:
            RunStopped: one did.
        """
        if self.number is not None and not deferred:
            raise RunStopped(self.number)


def _heeded() -> list[signal.Signals]:
    """Not those that the parent has switched off, as shells do with Ctrl-C of background jobs."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the signals of the main thread into a request; elsewhere there is never one."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.receive) for number in _heeded()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
