"""Whether values are what the annotations say, where they come from outside: files, callers."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["check_fields", "fits", "type_text"]


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type; an int passes for a float, and no bool for either.

    Args:
        value: anything.
        hint: a class, ``Any``, ``None``, or a union, ``Literal``, tuple, ``Mapping`` or
            ``Callable`` of these.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, tuple) and _fit_places(value, parts)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    if origin is Callable:
        return callable(value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, NoneType if hint is None else hint)


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass against its annotation.

    Raises:
        TypeError: one holds something else.
    """
    for field in fields(instance):
        value = getattr(instance, field.name)
        if not fits(value, field.type):
            raise TypeError(f"{field.name} must be {type_text(field.type)}, not {value!r:.80}")


def type_text(hint: Any) -> str:
    """An annotation in words, such as ``int or 'mixed' or None``."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType, Literal):
        words = [repr(part) if origin is Literal else type_text(part) for part in parts]
        return " or ".join(words)
    if origin is tuple:
        count = "" if Ellipsis in parts else f"{len(parts)} "
        return f"a tuple of {count}{type_text(parts[0])}"
    if hint in (None, NoneType):
        return "None"
    return str(getattr(origin or hint, "__name__", hint))


def _fit_places(value: tuple[object, ...], parts: tuple[Any, ...]) -> bool:
    if Ellipsis in parts:
        return all(fits(part, parts[0]) for part in value)
    return len(value) == len(parts) and all(map(fits, value, parts))
