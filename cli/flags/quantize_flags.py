"""Flags of ``quantize`` as the user gave them, and the options that they amount to."""

import math
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from lrq_deploy.checkpoint.transformers_config import task_beside
from lrq_deploy.errors import OptionError
from lrq_deploy.inspection.advice import Run
from lrq_deploy.launch import launch
from lrq_deploy.method.methods import METHODS, check_read, usual_switches
from lrq_deploy.options import Device, MarginMode, Method, Precision, QuantizeOptions, Recipe
from lrq_deploy.resume.control import RunControl
from lrq_deploy.scheme import ActSymmetry, Depthwise, Scheme, check_bits
from lrq_deploy.task import Task

__all__ = [
    "QuantizeFlags",
    "command_line",
    "control_from",
    "flag_name",
    "options_from",
    "parse_bits",
    "parse_floats",
    "parse_integers",
    "parse_width",
    "run_command",
    "whole_numbers",
]

Width = int | Literal["same"]


@dataclass(frozen=True)
class QuantizeFlags:
    """One value per long option of ``quantize``; ``None`` where it was not given.

    The field ``weight_bits`` is the flag ``--weight-bits`` and the key ``weight-bits`` of a
    configuration file.
    """

    bits: int | Literal["mixed"] | None = None
    target_size: float | None = None
    weight_bits: int | None = None
    act_bits: int | None = None
    edge_bits: Width | None = None
    residual_bits: Width | None = None
    act_symmetry: str | None = None
    depthwise: str | None = None
    int4_linear: bool | None = None
    arch: str | None = None
    input_shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None
    task: str | None = None
    images: Path | None = None
    method: str | None = None
    recipe: str | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool | None = None
    seed: int | None = None
    out: Path | None = None
    force: bool | None = None
    trust_pickle: bool | None = None
    long_range: bool | None = None
    margin: str | None = None
    decoupled: bool | None = None
    target: str | None = None
    bench: bool | None = None
    cache: Path | None = None
    resume: bool | None = None
    checkpoint_every: float | None = None
    max_memory: int | None = None
    require_ship: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, base: "QuantizeFlags") -> "QuantizeFlags":
        """These flags where given, those of ``base`` elsewhere."""
        return QuantizeFlags(**{**base.given(), **self.given()})


def flag_name(field_name: str) -> str:
    """``weight_bits`` -> ``weight-bits``."""
    return field_name.replace("_", "-")


def parse_bits(text: str | None) -> int | Literal["mixed"] | None:
    """A width such as ``4``, or ``mixed``.

    Raises:
        OptionError: it is neither.
    """
    if text is None or text == "mixed":
        return None if text is None else "mixed"
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            "--bits must be a number of bits or 'mixed'", repr(text), "pass --bits 4"
        ) from None


def parse_width(name: str, text: str | None) -> Width | None:
    """A width such as ``8``, or ``same``.

    Raises:
        OptionError: it is neither.
    """
    if text is None:
        return None
    if text == "same":
        return "same"
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            f"{name} must be a number of bits or 'same'", repr(text), f"pass --{name} 8"
        ) from None


def parse_integers(name: str, text: str | None, example: str = "3,32,32") -> tuple[int, ...] | None:
    """Whole numbers separated by commas; the error shows ``example``.

    Raises:
        OptionError: a part is no whole number.
    """
    remedy = f"pass for instance --{name} {example}"
    return None if text is None else whole_numbers(name, text, remedy)


def whole_numbers(option: str, text: str, remedy: str) -> tuple[int, ...]:
    """Those of ``text``, separated by commas.

    Raises:
        OptionError: a part is no whole number.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        rule = f"{option} must be whole numbers separated by commas"
        raise OptionError(rule, repr(text), remedy) from None


def parse_floats(name: str, text: str | None) -> tuple[float, ...] | None:
    """Finite numbers separated by commas.

    Raises:
        OptionError: a part is no finite number.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) for value in values):
        raise OptionError(
            f"{name} must be finite numbers separated by commas",
            repr(text),
            f"pass for instance --{name} 0.485,0.456,0.406",
        )
    return values


def options_from(model: Path, flags: QuantizeFlags) -> QuantizeOptions:
    """The validated options of a run.

    Args:
        model: checkpoint file; its stem names the default output directory.
        flags: what the user gave, a configuration file already merged in.

    Raises:
        OptionError: a value is out of range or the bit widths are missing.
    """
    scheme = _scheme_from(flags)
    task = flags.task or task_beside(model, flags.arch)
    name = cast(Method, flags.method or "lrq")
    # Unknown names are refused by QuantizeOptions.
    known: Method = name if name in METHODS else "lrq"
    defaults = usual_switches(known, cast(Task, task))
    method = replace(
        defaults,
        long_range=defaults.long_range if flags.long_range is None else flags.long_range,
        margin=cast(MarginMode, flags.margin or defaults.margin),
        decoupled=defaults.decoupled if flags.decoupled is None else flags.decoupled,
    )
    check_read(known, method, defaults)
    mixed = flags.target_size is not None
    width = "mixed" if mixed else f"w{scheme.weight_bits}a{scheme.act_bits}"
    suffix = "" if name == "lrq" else f"-{name}"
    return QuantizeOptions(
        model=model,
        out=flags.out or Path("runs") / f"{model.stem}-{width}{suffix}",
        scheme=scheme,
        arch=flags.arch,
        # The length is checked by QuantizeOptions.
        input_shape=cast(tuple[int, int, int] | None, flags.input_shape),
        mean=flags.mean,
        std=flags.std,
        output=flags.output,
        task=cast(Task, task),
        images=flags.images,
        recipe=cast(Recipe, flags.recipe or "balanced"),
        device=cast(Device, flags.device or "auto"),
        precision=cast(Precision, flags.precision or "auto"),
        compile=bool(flags.compile),
        seed=0 if flags.seed is None else flags.seed,
        trust_pickle=bool(flags.trust_pickle),
        force=bool(flags.force),
        method=method,
        method_name=name,
        target=flags.target or "auto",
        target_size=flags.target_size,
        bench=flags.bench is not False,
    )


def control_from(flags: QuantizeFlags) -> RunControl:
    """What a run keeps and reuses.

    Raises:
        OptionError: a value is out of range.
    """
    defaults = RunControl()
    every = flags.checkpoint_every
    return RunControl(
        cache=flags.cache,
        resume=bool(flags.resume),
        checkpoint_every=defaults.checkpoint_every if every is None else every,
        max_memory_mb=flags.max_memory,
    )


def _scheme_from(flags: QuantizeFlags) -> Scheme:
    for name in ("bits", "weight_bits", "act_bits", "edge_bits", "residual_bits"):
        value = getattr(flags, name)
        if isinstance(value, int):
            check_bits(f"--{flag_name(name)}", value)
    _check_mixed(flags)
    _check_int4_linear(flags)
    # Activations take no room in the file, and runtimes carry all of them in 8 bits.
    bits = 8 if flags.bits == "mixed" else flags.bits
    weight_bits = bits if flags.weight_bits is None else flags.weight_bits
    act_bits = bits if flags.act_bits is None else flags.act_bits
    if weight_bits is None or act_bits is None:
        given = sorted(f"--{flag_name(n)}" for n in flags.given() if n.endswith("_bits"))
        raise OptionError(
            "--bits is required unless both --weight-bits and --act-bits are given",
            " and ".join(given) or "no bit width",
            "pass --bits 4",
        )
    edge_bits = 8 if flags.edge_bits is None else flags.edge_bits
    residual_bits = 8 if flags.residual_bits is None else flags.residual_bits
    return Scheme(
        weight_bits=weight_bits,
        act_bits=act_bits,
        edge_bits=None if edge_bits == "same" else edge_bits,
        residual_bits=None if residual_bits == "same" else residual_bits,
        act_symmetry=cast(ActSymmetry, flags.act_symmetry or "symmetric"),
        depthwise=cast(Depthwise, flags.depthwise or "int8"),
        int4_linear=bool(flags.int4_linear),
    )


def _check_int4_linear(flags: QuantizeFlags) -> None:
    if flags.int4_linear and flags.target == "onnxruntime":
        raise OptionError(
            "--int4-linear is for TensorRT; ONNX Runtime would run those layers in float",
            "--target onnxruntime",
            "leave --int4-linear out, or pass --target tensorrt",
        )


def _check_mixed(flags: QuantizeFlags) -> None:
    mixed, target = flags.bits == "mixed", flags.target_size
    if mixed and target is None:
        raise OptionError(
            "--bits mixed needs a target to choose widths for",
            "none",
            "pass --target-size 0.2, in MB; lrq-deploy sensitivity shows what layers lose",
        )
    if target is not None and not mixed:
        raise OptionError(
            "--target-size is for --bits mixed",
            "no --bits" if flags.bits is None else f"--bits {flags.bits}",
            "pass --bits mixed",
        )
    if mixed and flags.weight_bits is not None:
        raise OptionError(
            "--bits mixed chooses the widths of the weights",
            f"--weight-bits {flags.weight_bits}",
            "drop --weight-bits",
        )


def command_line(model: Path, flags: QuantizeFlags) -> str:
    """The shell command that parses to ``flags``, with as many processes as now."""
    job, program = launch(), ["lrq-deploy"]
    if job.count > 1:
        program = ["torchrun", "--nproc-per-node", str(job.local_count), "-m", "lrq_deploy"]
    # A leading minus sign must not be read as a flag's.
    words = [*program, "quantize", f"./{model}" if str(model).startswith("-") else str(model)]
    for name, value in flags.given().items():
        flag = flag_name(name)
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            # "=" keeps a leading minus sign from being read as another flag.
            words.append(f"--{flag}=" + ",".join(str(part) for part in value))
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def run_command(run: Run) -> str:
    """Command line of a proposed run, to copy."""
    flags = QuantizeFlags(bits=4, arch=run.arch or None, trust_pickle=run.trusted or None)
    blanks = (("input-shape", run.input_shape), ("mean", run.mean), ("std", run.std))
    asked = [f"--{flag} {text}" for flag, text in blanks if text]
    return " ".join([command_line(Path(run.model), flags), *asked])
