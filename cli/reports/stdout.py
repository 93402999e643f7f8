"""What stdout cannot encode: a path of the user must neither end a command nor spoil its JSON."""

import codecs
import io
import json
import sys

__all__ = ["encode_everything"]

_ESCAPES = "lrq-escapes"
_ESCAPES_OR_BYTES = "lrq-escapes-or-bytes"


def encode_everything() -> None:
    """Let stdout escape what it cannot encode, as stderr does, where it would raise an error.

    The escapes are those of JSON: Python's own, such as ``\\xe9``, are none, and a document that
    holds them cannot be read.
    """
    handlers = {"strict": _ESCAPES, "surrogateescape": _ESCAPES_OR_BYTES}
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors in handlers:
        stream.reconfigure(errors=handlers[stream.errors])


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start])[1:-1], error.start + 1


def _escape_or_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that Python could not decode are written as they were, as before."""
    try:
        if isinstance(error, UnicodeEncodeError):
            return error.object[error.start].encode("ascii", "surrogateescape"), error.start + 1
    except UnicodeEncodeError:
        pass
    return _escape(error)


codecs.register_error(_ESCAPES, _escape)
codecs.register_error(_ESCAPES_OR_BYTES, _escape_or_bytes)
