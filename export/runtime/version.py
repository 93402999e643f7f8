"""Which version of ONNX Runtime a graph of this project needs, as measured version by version."""

import onnx

from lrq_deploy.errors import OptionError

__all__ = [
    "DEQUANTIZES_INT4",
    "MOVES_INTEGERS_TO_CHANNELS",
    "NEWEST_NEED",
    "OLDEST",
    "UNPACKS_INT2",
    "UNPACKS_INT4",
    "RuntimeVersion",
    "needed_version",
    "parse_version",
    "version_text",
]

RuntimeVersion = tuple[int, int]

OLDEST: RuntimeVersion = (1, 18)
"""For opset 21 and the integer kernels of every graph; 1.17 knows neither."""
DEQUANTIZES_INT4: RuntimeVersion = (1, 19)
UNPACKS_INT4: RuntimeVersion = (1, 23)
"""``Cast`` from INT4, and its folding at load."""
UNPACKS_INT2: RuntimeVersion = (1, 24)
"""The same from INT2, and the opset 25 that has it."""
MOVES_INTEGERS_TO_CHANNELS: RuntimeVersion = (1, 28)
"""``SpaceToDepth`` of 8-bit integers."""

_UNPACKS = {
    ("Cast", onnx.TensorProto.INT2): UNPACKS_INT2,
    ("Cast", onnx.TensorProto.INT4): UNPACKS_INT4,
    ("DequantizeLinear", onnx.TensorProto.INT4): DEQUANTIZES_INT4,
}
"""By operator and the type of the initializer that it reads."""

NEWEST_NEED = MOVES_INTEGERS_TO_CHANNELS
"""What any graph of this project may need."""


def needed_version(graph: onnx.GraphProto) -> RuntimeVersion:
    """The oldest ONNX Runtime that loads a graph in its dialect (docs/latency.md)."""
    stored = {x.name: x.data_type for x in graph.initializer}
    needed = {OLDEST}
    for node in graph.node:
        if node.op_type == "SpaceToDepth":
            needed.add(MOVES_INTEGERS_TO_CHANNELS)
        elif node.input and node.input[0] in stored:
            needed.add(_UNPACKS.get((node.op_type, stored[node.input[0]]), OLDEST))
    return max(needed)


def version_text(version: RuntimeVersion) -> str:
    """``1.18``."""
    return ".".join(map(str, version))


def parse_version(text: str) -> RuntimeVersion:
    """``1.18`` or ``1.18.1``.

    Raises:
        OptionError: it is no such version, or one that runs no graph of this project.
    """
    parts = text.split(".")
    if not (2 <= len(parts) <= 3 and all(part.isascii() and part.isdigit() for part in parts)):
        raise OptionError(
            "--onnxruntime must be a version", repr(text), "pass one such as --onnxruntime 1.18"
        )
    version = int(parts[0]), int(parts[1])
    if version < OLDEST:
        raise OptionError(
            f"--onnxruntime must be {version_text(OLDEST)} or later, which has the integer kernels",
            text,
            "install a later ONNX Runtime on the device",
        )
    return version
