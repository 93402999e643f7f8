"""Where a network decides by the number of images, as torch logs it while tracing."""

import logging
import re
import traceback
from collections.abc import Callable

from lrq_deploy.errors import CaptureError
from lrq_deploy.graph.capture_errors import PACKAGE, is_of_the_network

__all__ = ["with_its_line"]

_LOGGER = "torch.fx.experimental.symbolic_shapes"
_GUARD = re.compile(r"Not all values of \w+ = (\S+) in the specified range satisfy .* guard (.*)")
"""What the batch is called there, and what it must be."""

_ADDED = "[guard added]"


def with_its_line(
    error: CaptureError, trace: Callable[[], object], failures: tuple[type[Exception], ...]
) -> CaptureError:
    """The error of a network that takes some batches only, with the line that says so.

    Args:
        error: of torch's "Constraints violated", which names no line.
        trace: traces the network once more.
        failures: what it may raise.
    """
    place = _decided_at(trace, failures)
    guard = _GUARD.search(str(error.__cause__))
    received, remedy = error.received, error.remedy
    if guard is not None:
        received = f"a graph for batches in the range {guard[2].replace(guard[1], 'batch')} alone"
    if "cdist" in place:
        remedy = "pass compute_mode='use_mm_for_euclid_dist' to torch.cdist there"
    return CaptureError(error.rule, received + place, remedy)


def _decided_at(trace: Callable[[], object], failures: tuple[type[Exception], ...]) -> str:
    """`` at FILE:LINE (CODE)`` of the first decision; empty where no line of the network is."""
    logger, watcher = logging.getLogger(_LOGGER), _Watcher()
    before = logger.level, logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [watcher], False
    logger.setLevel(logging.INFO)
    try:
        trace()
    except failures:
        pass
    finally:
        logger.handlers, logger.propagate = before[1:]
        logger.setLevel(before[0])
    return watcher.place


class _Watcher(logging.Handler):
    """Looks up the stack when a decision is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line."""
        if _ADDED in record.getMessage() and not self.place:
            self.place = _line_of_the_network(traceback.extract_stack())


def _line_of_the_network(stack: traceback.StackSummary) -> str:
    for frame in reversed(stack):
        if is_of_the_network(frame.filename):
            return f" at {frame.filename}:{frame.lineno} ({frame.line})"
        if frame.filename.startswith(PACKAGE) and frame.filename != __file__:
            return ""
    return ""
