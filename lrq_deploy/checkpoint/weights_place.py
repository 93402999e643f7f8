"""Where the weights are in what a checkpoint holds, read by torch or by stand-ins alike."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lrq_deploy.checkpoint.naming import keys_to_weights, sets_of_weights
from lrq_deploy.checkpoint.saving import loading_expression
from lrq_deploy.errors import CheckpointError
from lrq_deploy.wording import counted, printable

__all__ = ["place_of_weights"]

# Mappings of a hostile file may contain each other: every way through them would be walked.
_MAX_DEPTH = 5
# A pickle of so many opcodes as are read holds fewer without that.
_MAX_ENTRIES = 2**21

_PUT_AT_THE_TOP = "put the state dict at the top or under 'state_dict' or 'model'"
_FROM_ARRAYS = (
    "make tensors of its NumPy arrays, and pass the file that has these: "
    "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)"
)


def place_of_weights(
    content: object,
    path: Path,
    is_module: Callable[[object], bool],
    is_tensor: Callable[[object], bool],
    plain: bool,
) -> tuple[str, ...]:
    """The keys that lead to a module or to a mapping with named tensors.

    Args:
        content: of the file.
        path: the file, for messages.
        is_module, is_tensor: what counts as either.
        plain: whether ``torch.load`` reads the file with ``weights_only=True``.

    Raises:
        CheckpointError: there are no named tensors, or several sets of which none has a usual key;
            or mappings that contain each other without end.
    """
    if _entries(content, _MAX_DEPTH, {}) > _MAX_ENTRIES:
        raise CheckpointError(
            "a checkpoint must not hold mappings nested to an astronomical size",
            f"more than {_MAX_ENTRIES} entries in {path}",
            "save it again with torch.save(model.state_dict(), path)",
        )
    keys = keys_to_weights(content, is_module, is_tensor)
    if keys is not None:
        return keys
    sets = sets_of_weights(content, is_module, is_tensor)
    if not sets:
        raise CheckpointError(
            "a checkpoint must hold named tensors",
            f"{path} with {_described(content, is_tensor)}",
            _FROM_ARRAYS if _holds_arrays(content) else _PUT_AT_THE_TOP,
        )
    first = loading_expression(path, sets[0], plain, False)
    raise CheckpointError(
        "a checkpoint must hold one set of weights, or one under a usual key such as 'state_dict'",
        f"{path} with {len(sets)}: {', '.join('.'.join(keys) for keys in sets)}",
        f"save the one to quantize alone, for instance with torch.save({first}, 'weights.pt')"
        + _as_one(content, path, sets, is_module, plain),
    )


def _entries(content: object, depth: int, known: dict[tuple[int, int], int]) -> int:
    """Entries of nested mappings, those of one counted wherever it is found."""
    if not isinstance(content, Mapping) or depth == 0:
        return 0
    place = id(content), depth
    if place not in known:
        inner = (_entries(value, depth - 1, known) for value in content.values())
        known[place] = len(content) + sum(inner)
    return known[place]


def _described(content: object, is_tensor: Callable[[object], bool]) -> str:
    if isinstance(content, Mapping):
        names = ", ".join(printable(key, 40) for key in list(content)[:5] if isinstance(key, str))
        keys = counted(len(content), "key")
        return f"a mapping of {keys} without tensors ({names or 'no names'})"
    # What stands in for an object says whose place it has.
    kind = getattr(content, "qualified_name", "") or type(content).__name__
    return f"one {'tensor' if is_tensor(content) else printable(kind, 80)} instead of a mapping"


def _as_one(
    content: object,
    path: Path,
    sets: Sequence[tuple[str, ...]],
    is_module: Callable[[object], bool],
    plain: bool,
) -> str:
    """How sets that lie side by side are saved together, such as an encoder and its head."""
    place, names = sets[0][:-1], [keys[-1] for keys in sets]
    for key in place:
        content = content[key]  # type: ignore[index]
    parts = content if isinstance(content, Mapping) else {}
    if any(keys[:-1] != place for keys in sets) or any(is_module(parts[n]) for n in names):
        return ""
    beside = loading_expression(path, place, plain, False)
    return (
        "; or, where they are parts of one network, save them together: torch.save("
        f"{{f'{{part}}.{{name}}': t for part in {names} for name, t in {beside}[part].items()}}, "
        "'weights.pt')"
    )


def _holds_arrays(content: object) -> bool:
    """Whether arrays are where weights may be: at the top, or below one key."""
    values = list(content.values()) if isinstance(content, Mapping) else []
    inner = [x for value in values if isinstance(value, Mapping) for x in value.values()]
    return any(_is_array(value) for value in (*values, *inner))


def _is_array(value: object) -> bool:
    """One of NumPy, or what stands in for it where no code of the file may run."""
    kind = type(value)
    name = str(getattr(value, "qualified_name", f"{kind.__module__}.{kind.__name__}"))
    return name.startswith("numpy.") and name.endswith((".ndarray", "._reconstruct"))
