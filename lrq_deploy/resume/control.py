"""How a run is carried out; nothing here changes what it makes."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RunControl"]


@dataclass(frozen=True)
class RunControl:
    """What a run keeps and reuses.

    Attributes:
        cache: folder of finished stages, shared by runs; None keeps none.
    """

    cache: Path | None = None
