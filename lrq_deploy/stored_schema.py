"""Stored documents: their bytes, and the version that they state of themselves."""

import json
from collections.abc import Mapping
from typing import Any

from lrq_deploy.errors import BundleError

__all__ = ["OUTDATED", "check_schema", "document_bytes"]

OUTDATED = "use the lrq-deploy version that wrote the bundle, or a newer one"


def document_bytes(document: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """JSON with sorted keys, in one line without ``indent``; the same values, the same bytes.

    Raises:
        TypeError, ValueError: one is no plain value, or not finite.
    """
    text = json.dumps(document, indent=indent, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def check_schema(
    what: str, stated: object, readable: tuple[int, ...], outdated: str = OUTDATED
) -> None:
    """Refuse a document of a version that is not read here.

    Args:
        what: the document, in the words of the error.
        stated: its ``schema_version``.
        readable: versions that are read.
        outdated: the remedy.

    Raises:
        BundleError: ``stated`` is none of them.
    """
    if stated not in readable:
        raise BundleError(
            f"{what} must have schema_version {' or '.join(map(str, readable))}",
            repr(stated),
            outdated,
        )
