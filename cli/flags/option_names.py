"""Names of options in errors: layers below say ``input_shape``, a user typed ``--input-shape``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, flag_name
from lrq_deploy.errors import OptionError

__all__ = ["saying_flags"]

_FIELDS = [field.name for field in fields(QuantizeFlags)]
_JOINED = [name.replace("_", "[_-]") for name in _FIELDS if "_" in name]
_NAMES = re.compile(rf"(?<![\w-])({'|'.join(_JOINED)})(?![\w=-])")
_WORDS = "|".join(name for name in _FIELDS if "_" not in name)
_SUBJECT = re.compile(rf"(?:(?:{_WORDS}) and )?(?:{_WORDS})(?= must )")
"""What is a word of the language too counts only where a rule begins with it."""


@contextmanager
def saying_flags() -> Iterator[None]:
    """Name options in an ``OptionError`` as they are on the command line."""
    try:
        yield
    except OptionError as error:
        said = [_NAMES.sub(_flag, text) for text in (error.rule, error.received, error.remedy)]
        subject = _SUBJECT.match(said[0])
        if subject is not None:
            flags = " and ".join(f"--{word}" for word in subject[0].split(" and "))
            said[0] = flags + said[0][subject.end() :]
        if (error.rule, error.received, error.remedy) == tuple(said):
            raise
        raise type(error)(*said) from error


def _flag(found: re.Match[str]) -> str:
    return f"--{flag_name(found[1])}"
