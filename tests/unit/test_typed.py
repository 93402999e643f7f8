"""Values against the annotations of this project."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from lrq_deploy.typed import check_fields, fits, type_text

pytestmark = pytest.mark.unit

WIDTH = int | Literal["same"] | None


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3, int),
        (3, float),
        (0.5, float),
        (True, bool),
        ("same", WIDTH),
        (None, WIDTH),
        (Path(), str | Path),
        ((1, 2, 3), tuple[int, int, int]),
        ((), tuple[float, ...]),
        ({"a": 1}, Mapping[str, int]),
        ({"a": [None]}, Mapping[str, Any]),
        (print, Callable[[int], None]),
        ([object()], Any),
    ],
)
def test_a_value_of_its_type_fits(value: object, hint: Any) -> None:
    assert fits(value, hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("3", int),
        (True, int),
        (False, float),
        (0.5, int),
        (1, bool),
        ("other", WIDTH),
        (5, str | Path),
        ((1, 2), tuple[int, int, int]),
        ((1, 2, None), tuple[int, int, int]),
        ([1, 2], tuple[int, ...]),
        (("a",), tuple[int, ...]),
        ({"a": "b"}, Mapping[str, int]),
        ({1: 1}, Mapping[str, int]),
        ([], Mapping[str, Any]),
        (None, Mapping[str, Any]),
        (3, Callable[[int], None]),
    ],
)
def test_another_value_does_not(value: object, hint: Any) -> None:
    assert not fits(value, hint)


def test_a_field_of_another_type_is_named() -> None:
    @dataclass
    class Shape:
        name: str
        sides: tuple[int, ...]

    check_fields(Shape("a", (1, 2)))
    with pytest.raises(TypeError, match=r"sides must be a tuple of int, not \('b',\)"):
        check_fields(Shape("a", ("b",)))  # type: ignore[arg-type]


def test_annotations_are_said_in_words() -> None:
    assert type_text(WIDTH) == "int or 'same' or None"
    assert type_text(tuple[int, int, int]) == "a tuple of 3 int"
    assert type_text(Mapping[str, Any]) == "Mapping"
    assert type_text(str | Path) == "str or Path"
