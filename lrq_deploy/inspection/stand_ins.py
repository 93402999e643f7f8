"""Unpickling a checkpoint into outlines: every global becomes a stand-in of this module.

Nothing that the pickle names is imported. The only callables that it can reach are the
stand-ins below, which build outlines or swallow their arguments.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final

from lrq_deploy.errors import CheckpointError
from lrq_deploy.inspection.outline import TensorOutline
from lrq_deploy.wording import printable

__all__ = ["StandIn", "is_module", "module_tensors", "unpickle_outlines"]

_DTYPE_OF_STORAGE: Final = {
    "BFloat16": "bfloat16",
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "Int": "int32",
    "Long": "int64",
    "Short": "int16",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
# Modules of a hostile file may contain each other: without bounds the names would never end.
_MAX_MODULES = 20_000
_MAX_PREFIX = 1_000


class StandIn:
    """An object of a foreign class: its name, its state and its items, without its code."""

    qualified_name = ""

    def __new__(cls, *args: object, **kwargs: object) -> "StandIn":
        created = super().__new__(cls)
        created.state = {}
        return created

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Take the item of a mapping, and forget it."""

    def append(self, value: object) -> None:
        """Take the item of a list, and forget it."""

    def extend(self, values: object) -> None:
        """Take the items of a list, and forget them."""

    def add(self, value: object) -> None:
        """Take the item of a set, and forget it."""


def unpickle_outlines(data: bytes) -> tuple[object, int]:
    """Content of the pickle at the start of ``data``, and where it ends.

    ``scan_pickle`` must have accepted it, which limits its size.

    Raises:
        CheckpointError: it is damaged.
    """
    stream = io.BytesIO(data)
    try:
        return _Unpickler(stream).load(), stream.tell()
    # A damaged pickle raises nearly any type, and only stand-ins can be called.
    except Exception as error:
        raise CheckpointError(
            "the pickle in a checkpoint must be complete",
            f"{type(error).__name__}: {str(error)[:200]}",
            "copy or download it again",
        ) from error


# The unpickler written in C allocates its memo by index: a few bytes can ask for gigabytes.
class _Unpickler(pickle._Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self._classes: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        qualified = f"{module}.{name}"
        known = _KNOWN.get(qualified)
        if known is not None:
            return known
        return self._class_named(qualified)

    def load_build(self) -> None:
        """Give a stand-in its state; Python's own would set attributes of anything."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        if isinstance(self.stack[-1], StandIn):  # type: ignore[attr-defined]
            self.stack[-1].__setstate__(state)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def get_extension(self, code: int) -> None:
        self.append(self._class_named(f"copyreg.extension_{code}"))  # type: ignore[attr-defined]

    def persistent_load(self, reference: object) -> object:
        # ("storage", type, key, location, elements[, view])
        if isinstance(reference, tuple) and len(reference) >= 2:
            return reference[1]
        return None

    def _class_named(self, qualified: str) -> type[StandIn]:
        if qualified not in self._classes:
            self._classes[qualified] = type("Foreign", (StandIn,), {"qualified_name": qualified})
        return self._classes[qualified]


def _sizes(value: object) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)) and all(isinstance(n, int) and n >= 0 for n in value):
        return tuple(value)
    raise ValueError(f"a tensor of the shape {str(value)[:100]}")


def _dtype(storage: object) -> str:
    name = printable(getattr(storage, "qualified_name", ""), 200).rpartition(".")[2]
    if name.endswith("Storage"):
        return _DTYPE_OF_STORAGE.get(name.removesuffix("Storage"), "untyped")
    return name or "untyped"


def _tensor(storage: object, offset: object, size: object, *rest: object) -> TensorOutline:
    return TensorOutline(_sizes(size), _dtype(storage))


def _tensor_of_dtype(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object,
    dtype: object, *rest: object,
) -> TensorOutline:  # fmt: skip
    return TensorOutline(_sizes(size), _dtype(dtype))


def _meta_tensor(dtype: object, size: object, *rest: object) -> TensorOutline:
    return TensorOutline(_sizes(size), _dtype(dtype))


def _first(data: object, *rest: object) -> object:
    return data


def _from_type(function: object, kind: object, arguments: object, state: object) -> object:
    if function in _REBUILD and callable(function) and isinstance(arguments, tuple):
        return function(*arguments)
    return StandIn()


def _mapping(pairs: object = ()) -> dict[Any, Any]:
    return dict(pairs if isinstance(pairs, (list, tuple, dict)) else ())


def _set(items: object = ()) -> set[Any]:
    return set(items) if isinstance(items, (list, tuple)) else set()


def _size_tuple(items: object = ()) -> tuple[Any, ...]:
    return tuple(items) if isinstance(items, (list, tuple)) else ()


_REBUILD: Final[list[Callable[..., Any]]] = [
    _tensor,
    _tensor_of_dtype,
    _meta_tensor,
    _first,
]
_KNOWN: Final[Mapping[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _mapping,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "torch.Size": _size_tuple,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_qtensor": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
}


def is_module(value: object) -> bool:
    """Whether a stand-in has the state of a ``torch.nn.Module``."""
    return isinstance(value, StandIn) and isinstance(value.state.get("_modules"), dict)


def module_tensors(module: object) -> dict[str, TensorOutline]:
    """State dict of a pickled module, as its own code would give it, from its state alone."""
    return dict(_walk(module))


def _walk(root: object) -> Iterator[tuple[str, TensorOutline]]:
    pending: list[tuple[str, object]] = [("", root)]
    for _ in range(_MAX_MODULES):
        if not pending:
            return
        prefix, module = pending.pop()
        if not isinstance(module, StandIn) or len(prefix) > _MAX_PREFIX:
            continue
        skipped = module.state.get("_non_persistent_buffers_set")
        skipped = skipped if isinstance(skipped, set) else set()
        for kind in ("_parameters", "_buffers"):
            for name, value in _items(module.state.get(kind)):
                if isinstance(value, TensorOutline) and name not in skipped:
                    yield prefix + name, value
        children = list(_items(module.state.get("_modules")))
        pending.extend((f"{prefix}{name}.", child) for name, child in reversed(children))


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        yield from ((str(name), item) for name, item in value.items())
