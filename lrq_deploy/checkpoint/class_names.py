"""Names of the classes in the order of the logits, as a training script saved them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrq_deploy.checkpoint.stated_places import stated_places

__all__ = ["named_in", "stated_class_names"]

_LONGEST = 200
_MOST = 100_000


def stated_class_names(content: object) -> tuple[str, ...]:
    """Names that lie beside the weights or are attributes of a whole module; empty without.

    Args:
        content: of the file, read by torch or by stand-ins, which keep attributes as ``state``.
    """
    for place in stated_places(content):
        found = named_in(place)
        if found:
            return found
    return ()


def named_in(entries: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names under one of the usual keys: a number per name, a name per number, or a list."""
    for key, read in _READERS.items():
        names = read(entries.get(key))
        if names and _are_names(names):
            return names
    return ()


def _by_name(value: object) -> tuple[str, ...]:
    """``{"cat": 0, "dog": 1}``, as torchvision's ``ImageFolder.class_to_idx``."""
    if not isinstance(value, Mapping) or not all(_is_number(v) for v in value.values()):
        return ()
    ordered = sorted(value, key=value.__getitem__)
    complete = [value[name] for name in ordered] == list(range(len(ordered)))
    return tuple(ordered) if complete else ()


def _by_number(value: object) -> tuple[str, ...]:
    """``{0: "cat", 1: "dog"}``; JSON makes the numbers text."""
    if not isinstance(value, Mapping):
        return ()
    numbers = [int(k) if isinstance(k, str) and k.isdecimal() else k for k in value]
    if not all(_is_number(number) for number in numbers):
        return ()
    named = dict(zip(numbers, value.values(), strict=True))
    complete = sorted(named) == list(range(len(value)))
    return tuple(named[number] for number in range(len(value))) if complete else ()


def _listed(value: object) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


_READERS: dict[str, Callable[[object], tuple[str, ...]]] = {
    "class_to_idx": _by_name,
    "class_to_index": _by_name,
    "label2id": _by_name,
    "idx_to_class": _by_number,
    "index_to_class": _by_number,
    "id2label": _by_number,
    "class_names": _listed,
    "label_names": _listed,
    "classes": _listed,
    "categories": _listed,
    "labels": _listed,
}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_names(names: Sequence[object]) -> bool:
    """Whether they tell classes apart; transformers writes ``LABEL_0`` where nobody named any."""
    texts = [name for name in names if isinstance(name, str) and 0 < len(name) <= _LONGEST]
    return (
        len(texts) == len(names) <= _MOST
        and all(name.isprintable() for name in texts)
        and len({name.casefold() for name in texts}) == len(texts)
        and texts != [f"LABEL_{index}" for index in range(len(texts))]
    )
