"""JSON files that lrq-deploy writes and reads again: by whom, of which schema, which fields."""

import errno
import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lrq_deploy.errors import BundleError
from lrq_deploy.stored_schema import check_schema, document_bytes

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["PRODUCER", "own_document", "read_document", "regular_bytes"]

PRODUCER = "lrq-deploy"
T = TypeVar("T")


def own_document(schema: int, values: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Bytes of a document that ``read_document`` reads; its arguments as ``document_bytes``."""
    return document_bytes({"producer": PRODUCER, "schema_version": schema, **values}, indent)


def read_document(
    path: Path,
    kind: type[T],
    schemas: tuple[int, ...],
    refused: Callable[[Path, str], BundleError],
    outdated: str,
) -> T:
    """Read a file with ``producer`` and ``schema_version`` beside the fields of a dataclass.

    Args:
        path: the file.
        kind: the dataclass.
        schemas: versions that are read.
        refused: the error where it is no such file, of the path and the reason.
        outdated: the remedy where it is of another schema.

    Raises:
        BundleError: it is no such file, or of another schema.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = regular_bytes(path)
        document = json.loads(raw)
    except (OSError, RecursionError, ValueError) as error:
        raise refused(path, f"{type(error).__name__}: {error}") from error
    stated = document if isinstance(document, dict) else {}
    if stated.get("producer") != PRODUCER:
        raise refused(path, "another producer")
    check_schema(str(path), stated.get("schema_version"), schemas, outdated)
    try:
        return TypeAdapter(kind).validate_json(raw, strict=True)
    except ValidationError as error:
        raise refused(path, _wrong_field(error)) from error


def regular_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        OSError: it cannot be read, or is a device or a pipe, which may never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return path.read_bytes()


def _wrong_field(error: "ValidationError") -> str:
    """The first field that is not of its type, and why."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
