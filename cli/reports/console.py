"""Where reports are written: names out of files are text there, and nothing that is obeyed."""

import json
import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["ReportConsole"]

_OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but the end of a line, other ends of lines, and what turns text around."""


class ReportConsole(Console):
    """A console of stdout or stderr that shows control characters as JSON escapes, no markup.

    Args:
        stderr: whether to write there.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments of anything; those that move the cursor are rich's own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _OBEYED.sub(_escaped, text), style, control)


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]
