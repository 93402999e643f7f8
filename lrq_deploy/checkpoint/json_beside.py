"""Small JSON files that other programs keep in the folder of the weights."""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json_object"]

_MAX_BYTES = 2**22


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none, or what no program writes for people."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
    # A hostile file nests without end.
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
