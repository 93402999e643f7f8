"""Where a checkpoint keeps its weights and what their names tell; needs no tensor library."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

__all__ = [
    "COUNTERS",
    "NESTING_KEYS",
    "classes_of_shapes",
    "keys_to_weights",
    "sets_of_weights",
    "strip_wrappers",
    "without_prefixes",
]

NESTING_KEYS: Final = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "checkpoint",
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
)
"""Keys under which training scripts put the weights, in the order in which they are tried."""

_LEFT_BEHIND = ("n_averaged", "total_ops", "total_params")
"""Last words of names: the counter of AveragedModel, and the costs that thop adds to each layer."""

COUNTERS: Final = ("num_batches_tracked", *_LEFT_BEHIND)
"""How names end that no answer depends on."""

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_MAX_NESTING = 4
_MAX_PREFIXES = 4
_CLASSIFIER = re.compile(
    r"(?:^|\.)(?:fc\d*|classifier|classif|head|heads|logits|linear|last_linear|output)(?:\.|$)"
)
_AUXILIARY = re.compile(r"(?:^|\.)(?:aux|pre_)", re.IGNORECASE)

Value = TypeVar("Value")


def keys_to_weights(
    content: object,
    is_module: Callable[[object], bool],
    is_tensor: Callable[[object], bool],
    depth: int = _MAX_NESTING,
) -> tuple[str, ...] | None:
    """The keys that lead to a module or to a mapping with named tensors; ``None`` if neither.

    Keys of ``NESTING_KEYS`` go first; any other is followed where one alone leads to weights. Lone
    tensors such as a metric or the state of a random generator count where nothing else does.
    """
    if is_module(content):
        return ()
    if not isinstance(content, Mapping) or depth < 0:
        return None
    for key in NESTING_KEYS:
        inner = keys_to_weights(content.get(key), is_module, is_tensor, depth - 1)
        if inner is not None:
            return (key, *inner)
    if _holds_weights(content, (), is_tensor):
        return ()
    found = sets_of_weights(content, is_module, is_tensor, depth)
    if found:
        return found[0] if len(found) == 1 else None
    named = any(isinstance(key, str) and is_tensor(value) for key, value in content.items())
    return () if named else None


def sets_of_weights(
    content: object,
    is_module: Callable[[object], bool],
    is_tensor: Callable[[object], bool],
    depth: int = _MAX_NESTING,
) -> list[tuple[str, ...]]:
    """The keys to every module and every mapping with weights below keys that nobody agreed on."""
    if not isinstance(content, Mapping) or depth < 0:
        return []
    found: list[tuple[str, ...]] = []
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        inner = keys_to_weights(value, is_module, is_tensor, depth - 1)
        if inner is None:
            below = sets_of_weights(value, is_module, is_tensor, depth - 1)
            found += [(key, *keys) for keys in below]
        elif _holds_weights(value, inner, is_tensor):
            found.append((key, *inner))
    return found


def _holds_weights(
    content: Any, keys: tuple[str, ...], is_tensor: Callable[[object], bool]
) -> bool:
    """A mapping of metrics, or of one layer's optimizer state, has no tensor called ``weight``."""
    for key in keys:
        content = content[key]
    if not isinstance(content, Mapping):
        return True
    return any(str(name).endswith("weight") and is_tensor(x) for name, x in content.items())


def strip_wrappers(named: Mapping[str, Value]) -> dict[str, Value]:
    """Undo DistributedDataParallel, AveragedModel and torch.compile, in any order of wrapping.

    What a profiler left in the network goes too.
    """
    names = {n: value for n, value in named.items() if n.rpartition(".")[2] not in _LEFT_BEHIND}
    while True:
        for prefix in _WRAPPER_PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): value for name, value in names.items()}
                break
        else:
            return {name.replace("_orig_mod.", ""): value for name, value in names.items()}


def without_prefixes(named: Mapping[str, Value]) -> list[dict[str, Value]]:
    """The values as they are, then without one shared leading name after another."""
    candidates = [dict(named)]
    for _ in range(_MAX_PREFIXES):
        current = candidates[-1]
        heads = {name.split(".", 1)[0] for name in current}
        if len(heads) != 1 or not all("." in name for name in current):
            break
        candidates.append({name.split(".", 1)[1]: value for name, value in current.items()})
    return candidates


def classes_of_shapes(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Classes of a classifier's weights: rows of its last linear layer or 1x1 convolution.

    Safetensors sorts names, so a classifier's usual name counts more than the position, and
    numbers inside names are compared as numbers. ``None`` where no such weight exists.
    """
    weights = {
        name: shape
        for name, shape in shapes.items()
        if name.endswith("weight") and _is_projection(shape) and not _AUXILIARY.search(name)
    }
    named = [name for name in weights if _CLASSIFIER.search(name)]
    if named:
        depth = min(name.count(".") for name in named)
        shallow = [name for name in named if name.count(".") == depth]
        return int(weights[max(shallow, key=_natural)][0])
    if weights:
        return int(weights[list(weights)[-1]][0])
    return None


def _is_projection(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 4 and tuple(shape[2:]) == (1, 1))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
