"""``--config FILE.toml``: the flags of a run kept in a file."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lrq_deploy.cli.flags.quantize_flags import (
    QuantizeFlags,
    flag_name,
    parse_floats,
    parse_integers,
)
from lrq_deploy.errors import OptionError

__all__ = ["ALLOWED_KEYS", "read_config"]

# Trust in a file that may run code is given by hand, for one run, never by another file.
_BY_HAND = ("trust_pickle",)

_ALONE = ("trust-pickle", "json", "quiet")
"""Switches of the command line alone."""

ALLOWED_KEYS = tuple(
    flag_name(field.name) for field in fields(QuantizeFlags) if field.name not in _BY_HAND
)

_SWITCHES = tuple(
    flag_name(field.name) for field in fields(QuantizeFlags) if field.type == bool | None
)


def read_config(path: Path) -> QuantizeFlags:
    """Read flags from a ``[quantize]`` table or from the top level of a TOML file.

    Keys are the long option names; lists may be TOML arrays or the text of the flag. Paths
    count from the working directory, as on the command line.

    Raises:
        OptionError: the file is missing or no TOML, or has an unknown key or a value of the
            wrong type.
    """
    table = _read_table(path)
    unknown = sorted(set(table) - set(ALLOWED_KEYS))
    if unknown:
        raise OptionError(
            f"{path} may hold these keys: {', '.join(ALLOWED_KEYS)}",
            ", ".join(unknown),
            "; ".join(filter(None, map(_meant, unknown))) or "remove or rename them",
        )
    return _validated(path, {_field_name(key): _parsed(path, key, table[key]) for key in table})


def _read_table(path: Path) -> Mapping[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(
            "--config must name a readable TOML file",
            f"{path}: {error.strerror}",
            "check the path",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(
            "--config must name a valid TOML file", f"{path}: {error}", "correct the file"
        ) from error
    table = document.get("quantize")
    if not isinstance(table, dict):
        return document
    others = sorted(set(document) - {"quantize"})
    if others:
        raise OptionError(
            f"{path} may hold nothing beside its [quantize] table, which alone is read",
            ", ".join(others),
            "move the keys of a run into [quantize], and the rest to another file",
        )
    return table


def _parsed(path: Path, key: str, value: object) -> object:
    parts = value if isinstance(value, list) else [value]
    if key not in _SWITCHES and any(isinstance(part, bool) for part in parts):
        # Python would count true as 1.
        raise OptionError(
            f"{key} in {path} is no switch",
            repr(value).lower(),
            "write the value as on the command line",
        )
    if isinstance(value, str) and key == "input-shape":
        return parse_integers(key, value)
    if isinstance(value, str) and key in ("mean", "std"):
        return parse_floats(key, value)
    if isinstance(value, int) and key == "output":
        return str(value)
    return value


def _validated(path: Path, values: Mapping[str, object]) -> QuantizeFlags:
    # Imported here: a run without --config, and --help, need no pydantic.
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(QuantizeFlags).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise OptionError(
            f"{flag_name(str(first['loc'][0]))} in {path}: {first['msg']}",
            repr(first["input"]),
            "write the value as on the command line",
        ) from error


def _meant(key: str) -> str:
    name = flag_name(key)
    if name in _ALONE:
        return f"pass --{name} on the command line in place of {key}"
    switch = name.removeprefix("no-")
    if switch != name and switch in _SWITCHES:
        return f"write {switch}, true or false, in place of {key}"
    near = get_close_matches(name, ALLOWED_KEYS, n=1)
    return f"did you mean {near[0]} in place of {key}?" if near else ""


def _field_name(key: str) -> str:
    return key.replace("-", "_")
