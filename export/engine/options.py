"""What an engine is built for, and the same in the words of NVIDIA's own tool, ``trtexec``."""

import shlex
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, get_args

from lrq_deploy.errors import OptionError

__all__ = [
    "BatchProfile",
    "EngineKind",
    "EngineOptions",
    "batch_shape",
    "check_batch",
    "trtexec_arguments",
    "trtexec_command",
]

EngineKind = Literal["tensorrt", "tensorrt-rtx"]

_DEFAULT_SMS = (86, 89, 120)
_MIB = 2**20
_MOST_NUMBERS = 2**31 - 1
"""Of one tensor, as TensorRT counts them."""
_MOST_MIB = 2**63 // _MIB - 1

_NO_RTX_TARGETS = {
    70: "V100",
    72: "Jetson Xavier",
    87: "Jetson Orin",
    90: "H100",
    100: "B200",
    101: "Jetson Thor",
    103: "B300",
    110: "Jetson Thor",
}
"""GPUs for which TensorRT builds and TensorRT for RTX 1.7 does not."""


@dataclass(frozen=True)
class BatchProfile:
    """Batch sizes of an engine: it runs ``smallest..largest`` and is tuned for ``usual``."""

    smallest: int = 1
    usual: int = 1
    largest: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.usual <= self.largest:
            raise OptionError(
                "--batch must be MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX",
                f"{self.smallest},{self.usual},{self.largest}",
                "pass for instance --batch 1,1,8",
            )

    def sizes(self) -> tuple[int, int, int]:
        """Smallest, usual, largest."""
        return self.smallest, self.usual, self.largest


@dataclass(frozen=True)
class EngineOptions:
    """One engine.

    Attributes:
        kind: ``tensorrt`` builds for the GPU of this machine, ``tensorrt-rtx`` ahead of time.
        sms: compute capabilities times ten, for instance 86; ``tensorrt-rtx`` only, where
            empty means Ampere, Ada and Blackwell of the RTX series (86, 89, 120).
        batch: sizes that the engine accepts.
        workspace_mib: largest scratch memory of the engine in MiB; ``None`` leaves it to the
            builder.
        fp16_rest: compute in FP16 what is not quantized, see ``passes.half_rest``.
    """

    kind: EngineKind
    sms: tuple[int, ...] = ()
    batch: BatchProfile = BatchProfile()
    workspace_mib: int | None = None
    fp16_rest: bool = False

    def __post_init__(self) -> None:
        kinds = get_args(EngineKind)
        if self.kind not in kinds:
            raise OptionError(
                f"--engine must be one of {', '.join(kinds)}", repr(self.kind), "pass one of these"
            )
        if self.sms and self.kind == "tensorrt":
            raise OptionError(
                "--sm is for tensorrt-rtx; TensorRT builds for the GPU of this machine only",
                f"--sm {','.join(str(sm) for sm in self.sms)} with --engine tensorrt",
                "leave --sm out, or pass --engine tensorrt-rtx",
            )
        if len(set(self.sms)) != len(self.sms):
            raise OptionError(
                "--sm must name each compute capability once",
                ",".join(str(sm) for sm in self.sms),
                "leave the repetition out",
            )
        self._check_rtx_targets()
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= _MOST_MIB:
            raise OptionError(
                f"--workspace must be 1 MiB or more, and at most {_MOST_MIB}",
                str(self.workspace_mib),
                "pass for instance --workspace 1024, or leave it to the builder",
            )

    def _check_rtx_targets(self) -> None:
        """GPUs of which users think first; the builder says what it knows of the others."""
        for sm in self.sms:
            if sm in _NO_RTX_TARGETS:
                gpu = _NO_RTX_TARGETS[sm]
                there = "" if gpu.startswith("Jetson") else " on its machine, or here with"
                raise OptionError(
                    f"TensorRT for RTX has no target for compute capability {sm}, {gpu}",
                    f"--sm {','.join(str(sm) for sm in self.sms)}",
                    f"for that GPU pass --engine tensorrt{there} --for-device DIR, which writes "
                    "what builds the engine on the device",
                )

    @property
    def compute_capabilities(self) -> tuple[int, ...]:
        """What ``tensorrt-rtx`` builds for; empty for ``tensorrt``."""
        return (self.sms or _DEFAULT_SMS) if self.kind == "tensorrt-rtx" else ()

    @property
    def workspace_bytes(self) -> int | None:
        """``workspace_mib`` in bytes."""
        return None if self.workspace_mib is None else self.workspace_mib * _MIB


def check_batch(largest: int, input_shape: tuple[int, ...]) -> None:
    """Refuse a batch that no runtime takes.

    Args:
        largest: images of a batch.
        input_shape: ``(C, H, W)``.

    Raises:
        OptionError: it holds more numbers than a runtime counts.
    """
    most = _MOST_NUMBERS // prod(input_shape)
    if largest > most:
        shape = "x".join(str(n) for n in input_shape)
        raise OptionError(
            f"--batch must hold at most {_MOST_NUMBERS} numbers, {most} images of {shape}",
            str(largest),
            "pass a smaller --batch",
        )


def batch_shape(size: int, input_shape: tuple[int, ...]) -> str:
    """``NxCxHxW``, as ``trtexec`` has it."""
    return "x".join(str(n) for n in (size, *input_shape))


def trtexec_arguments(
    graph: str, out: str, input_shape: tuple[int, ...], options: EngineOptions
) -> list[str]:
    """What ``trtexec`` needs to build the same engine as ``build`` from the same graph.

    Args:
        graph: ONNX file, with ``fp16_rest`` already in FP16.
        out: engine file to write.
        input_shape: ``(C, H, W)``.
        options: profile, workspace and type of the rest; ``sms`` do not apply to ``trtexec``.
    """
    words = [f"--onnx={graph}", f"--saveEngine={out}", "--stronglyTyped"]
    if not options.fp16_rest:
        words.append("--noTF32")
    for name, size in zip(("min", "opt", "max"), options.batch.sizes(), strict=True):
        words.append(f"--{name}Shapes=input:{batch_shape(size, input_shape)}")
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    return words


def trtexec_command(
    graph: Path, out: Path, input_shape: tuple[int, ...], options: EngineOptions
) -> str:
    """How a message names NVIDIA's own tool: by its command line, or by what writes the script.

    The script it is with ``fp16_rest``, whose graph is in no bundle.

    Args:
        graph: ``model.tensorrt.onnx``.
        out: engine file to write.
        input_shape: ``(C, H, W)``.
        options: of the engine.
    """
    if options.fp16_rest:
        return "the build.sh that --for-device DIR writes here, with the graph"
    return shlex.join(["trtexec", *trtexec_arguments(str(graph), str(out), input_shape, options)])
