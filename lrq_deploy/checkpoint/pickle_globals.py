"""What a pickle would import, read from its opcodes; nothing is imported or called."""

import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lrq_deploy.checkpoint.zip_damage import ZIP_DAMAGE
from lrq_deploy.errors import CheckpointError

__all__ = [
    "INERT_GLOBALS",
    "MAX_PICKLE_BYTES",
    "PickleGlobals",
    "archive_globals",
    "is_plain_pickle",
    "legacy_globals",
    "scan_pickle",
]

MAX_PICKLE_BYTES = 32 * 2**20
MAX_OPCODES = 4_000_000
# Called with a number it takes as much memory; Python pickles its content as bytes.
_BYTEARRAYS = ("builtins bytearray", "__builtin__ bytearray")
# Hashing a tuple walks it unfolded: a chain of t = (t, t) used as a key would never end.
MAX_TUPLE_NODES = 2**24

_TENSOR_GLOBALS = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "__builtin__.bytearray",
        "__builtin__.complex",
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
    }
)
_STORAGE_KINDS = (
    *("BFloat16", "Bool", "Byte", "Char", "ComplexDouble", "ComplexFloat"),
    *("Double", "Float", "Half", "Int", "Long", "Short", "QInt8", "QUInt8", "QInt32"),
)
_DTYPES = (
    *("bfloat16", "float16", "float32", "float64", "bool", "complex32", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("qint8", "quint8", "qint32", "per_tensor_affine", "per_channel_affine"),
)
_SAFE_GLOBALS = (
    _TENSOR_GLOBALS
    | {f"torch.{kind}Storage" for kind in _STORAGE_KINDS}
    | {f"torch.cuda.{kind}Storage" for kind in _STORAGE_KINDS}
    | {f"torch.{dtype}" for dtype in _DTYPES}
)
# Training leftovers without influence on the weights; the reader replaces each of them by an
# inert object, so that not even their own code runs.
INERT_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "collections.defaultdict",
        "collections.deque",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "types.SimpleNamespace",
    }
).union(
    # What a defaultdict is made of, and values that no literal of a pickle states.
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in (
        *("bool", "dict", "float", "frozenset", "int", "list"),
        *("range", "slice", "str", "tuple", "xrange"),
    )
)


@dataclass(frozen=True)
class PickleGlobals:
    """The globals that a checkpoint names, in the order of their first appearance.

    Attributes:
        names: each as ``module.name``.
    """

    names: tuple[str, ...]

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Those that neither describe tensors nor are replaced by an inert object."""
        return tuple(n for n in self.names if n not in _SAFE_GLOBALS and n not in INERT_GLOBALS)

    @property
    def not_tensors(self) -> tuple[str, ...]:
        """Those that do not describe tensors, the inert ones included."""
        return tuple(n for n in self.names if n not in _SAFE_GLOBALS)

    @property
    def inert(self) -> tuple[str, ...]:
        """Those that are replaced by an inert object."""
        return tuple(n for n in self.names if n in INERT_GLOBALS)


def archive_globals(source: Path | BinaryIO, root: str | None = None) -> PickleGlobals:
    """Globals of a zip archive of ``torch.save``.

    Args:
        source: the archive.
        root: folder that holds ``data.pkl``; ``None`` looks at every ``data.pkl``.

    Raises:
        CheckpointError: no readable ``data.pkl``, or one beyond the limits of this reader.
    """
    names: dict[str, None] = {}
    found = False
    try:
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                folder, _, base = entry.filename.rpartition("/")
                if base != "data.pkl" or (root is not None and folder != root):
                    continue
                found = True
                if entry.file_size > MAX_PICKLE_BYTES:
                    raise _beyond(f"data.pkl of {entry.file_size} bytes")
                names.update(dict.fromkeys(scan_pickle(io.BytesIO(archive.read(entry)))))
    except ZIP_DAMAGE as error:
        raise _damaged(str(error)) from None
    except (ValueError, struct.error, OverflowError) as error:
        raise _damaged(str(error)) from None
    if not found:
        raise _damaged("no data.pkl in the archive")
    return PickleGlobals(tuple(names))


def legacy_globals(path: Path) -> PickleGlobals:
    """Globals of a file of ``torch.save`` before torch 1.6: five pickles, then raw storages.

    Raises:
        CheckpointError: a pickle is damaged or beyond the limits of this reader.
    """
    with path.open("rb") as stream:
        pickles = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    names: dict[str, None] = {}
    for _ in ("magic number", "version", "system", "object", "storage keys"):
        names.update(dict.fromkeys(scan_pickle(pickles)))
    return PickleGlobals(tuple(names))


def is_plain_pickle(path: Path, head: bytes) -> bool:
    """Whether the file is one pickle of any protocol; ``head`` is how it begins."""
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return True
    if head[:1] not in b"c(]}iVSIFL":
        return False
    with path.open("rb") as stream:
        data = io.BytesIO(stream.read(2**20))
    try:
        scan_pickle(data)
    except CheckpointError:
        return False
    return True


def scan_pickle(stream: BinaryIO) -> tuple[str, ...]:
    """Globals of the pickle at the position of ``stream``, which is left behind its end.

    Follows the stack and the memo far enough to know the strings that ``STACK_GLOBAL``
    takes; a name that is computed appears as ``<computed>``.

    Raises:
        CheckpointError: damaged, or beyond the limits on opcodes and on nested tuples.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Python warns of an escape that it does not know; no pickler writes one.
            warnings.simplefilter("error")
            for number, (opcode, argument, _) in enumerate(_opcodes(stream)):
                if number >= MAX_OPCODES:
                    raise _beyond(f"more than {MAX_OPCODES} opcodes")
                machine.step(opcode, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(str(error)) from None
    except (struct.error, OverflowError, MemoryError, Warning) as error:
        raise _damaged(str(error)) from None
    return tuple(machine.names)


def _opcodes(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    return pickletools.genops(stream)


@dataclass(frozen=True)
class _Item:
    """A value on the stack.

    Attributes:
        nodes: how many it has when unfolded.
        text: of a string, or of a global.
        wordy: whether it is a string or bytes, or a tuple of such.
    """

    nodes: int = 1
    text: str | None = None
    wordy: bool = False


class _Machine:
    """Replays a pickle's stack movements on sizes instead of values."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self._stack: list[_Item | None] = []  # None is a mark
        self._memo: dict[int, _Item | None] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            key = len(self._memo) if argument is None else int(argument)
            self._memo[key] = self._stack[-1]
            return
        if name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[int(argument)])
            return
        if name == "MARK":
            self._stack.append(None)
            return
        if name == "DUP":
            self._stack.append(self._stack[-1])
            return
        taken = self._take(opcode)
        self._record(name, argument, taken)
        nodes = min(1 + sum(item.nodes for item in taken if item), MAX_TUPLE_NODES + 1)
        if "TUPLE" in name and nodes > MAX_TUPLE_NODES:
            raise _beyond("tuples nested to an astronomical size")
        text = argument if isinstance(argument, str) else None
        callee = taken[1] if name == "REDUCE" else None
        wordy = (
            isinstance(argument, str | bytes)
            or ("TUPLE" in name and all(item and item.wordy for item in taken))
            or (callee is not None and callee.text == "_codecs encode")
        )
        # Of REDUCE the arguments lie on top.
        made_of_words = callee is not None and taken[0] is not None and taken[0].wordy
        if not made_of_words and any(item and item.text in _BYTEARRAYS for item in taken):
            raise _beyond("a bytearray of something else than bytes")
        self._stack.extend(_Item(nodes, text, wordy) for _ in opcode.stack_after)

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Item | None]:
        before = opcode.stack_before
        taken: list[_Item | None] = []
        if pickletools.markobject in before:
            while (item := self._stack.pop()) is not None:
                taken.append(item)
            before = before[: before.index(pickletools.markobject)]
        taken.extend(self._stack.pop() for _ in before)
        return taken

    def _record(self, name: str, argument: Any, taken: list[_Item | None]) -> None:
        if name in ("GLOBAL", "INST"):
            self.names[".".join(str(argument).split(" ", 1))] = None
        elif name == "STACK_GLOBAL":
            parts = [item.text if item and item.text else "<computed>" for item in taken]
            self.names[".".join(reversed(parts))] = None
        elif name.startswith("EXT"):
            self.names[f"<copyreg extension {argument}>"] = None


def _beyond(what: str) -> CheckpointError:
    return CheckpointError(
        "the pickle in a checkpoint must be of reasonable size",
        what,
        "save only the state dict: torch.save(model.state_dict(), path)",
    )


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(
        "the pickle in a checkpoint must be complete", what[:300], "copy or download it again"
    )
