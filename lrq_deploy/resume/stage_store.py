"""A folder of finished stages, each kept under the key of everything that it depends on."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrq_deploy.errors import StateFileError
from lrq_deploy.resume.state_file import SUFFIX, read_state, write_state

__all__ = ["KEY_DIGITS", "StageStore"]

KEY_DIGITS = 32


class StageStore:
    """Finished stages on the disk; several runs may share the folder.

    Args:
        folder: created with the first product.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the products are."""
        return self._folder

    def find(self, stage: str, key: str, mapped: bool = False) -> dict[str, Any] | None:
        """The product of a stage, or None; a damaged one is deleted, if it may be.

        Args:
            stage: name of the stage.
            key: see ``stage_key``.
            mapped: leave tensors in the file, see ``read_state``.
        """
        for path in sorted(self._folder.glob(f"{stage}-{key[:KEY_DIGITS]}-*{SUFFIX}")):
            try:
                found = read_state(path, mapped)
            except StateFileError as error:
                # What cannot be read now may be whole, and another user's.
                if not isinstance(error.__cause__, OSError):
                    with contextlib.suppress(OSError):
                        path.unlink()
                continue
            # The file of another user can be read, and nothing more.
            with contextlib.suppress(OSError):
                os.utime(path)
            return found
        return None

    def add(self, stage: str, key: str, product: Mapping[str, Any]) -> Path:
        """Keep a product.

        Raises:
            OutputError: the disk refuses.
        """
        return write_state(self._folder, f"{stage}-{key[:KEY_DIGITS]}", product)
