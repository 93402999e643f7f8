"""What Python's zip reader raises on an archive that is damaged, encrypted or oddly compressed."""

import zipfile
from typing import Final

__all__ = ["ZIP_DAMAGE"]

ZIP_DAMAGE: Final = (
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
)
"""In this order: no zip, a password or unknown compression, cut off, unreadable."""
