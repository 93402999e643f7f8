"""Flags of ``quantize`` for any command: declared once, parsed once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from lrq_deploy.cli.flags import quantize_parameters
from lrq_deploy.cli.flags.option_names import saying_flags
from lrq_deploy.cli.flags.quantize_flags import (
    QuantizeFlags,
    parse_bits,
    parse_floats,
    parse_integers,
    parse_width,
)

__all__ = ["NETWORK", "WIDTHS", "with_flags"]

WIDTHS = (
    "weight_bits",
    "act_bits",
    "edge_bits",
    "residual_bits",
    "act_symmetry",
    "depthwise",
    "int4_linear",
)
"""What is an integer, and of which width, beside ``bits``."""
NETWORK = ("arch", "input_shape", "mean", "std", "output", "task")
"""How a model is read."""

_PARSERS: dict[str, Callable[[str | None], Any]] = {
    "bits": parse_bits,
    "edge_bits": functools.partial(parse_width, "edge-bits"),
    "residual_bits": functools.partial(parse_width, "residual-bits"),
    "input_shape": functools.partial(parse_integers, "input-shape"),
    "mean": functools.partial(parse_floats, "mean"),
    "std": functools.partial(parse_floats, "std"),
}


def with_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Put options in the place of the parameter ``flags``, which the command gets filled in.

    Args:
        names: fields of ``QuantizeFlags``. The option of ``weight_bits`` is
            ``quantize_parameters.WeightBits``; ``grouped_help`` has the order of ``--help``.

    Raises:
        OptionError: by the command, where a value cannot be parsed.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            with saying_flags():
                values = {name: _parsed(name, given.pop(name)) for name in names}
            command(flags=QuantizeFlags(**values), **given)

        functools.update_wrapper(run, command)
        # Typer reads the signature, and the types from there.
        vars(run)["__signature__"] = _expanded(inspect.signature(command), names)
        return run

    return decorate


def _parsed(name: str, value: Any) -> Any:
    return _PARSERS[name](value) if name in _PARSERS else value


def _expanded(signature: inspect.Signature, names: tuple[str, ...]) -> inspect.Signature:
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "flags":
            parameters += [_option(name) for name in names]
        else:
            parameters.append(parameter)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return signature.replace(parameters=[p.replace(kind=keyword) for p in parameters])


def _option(name: str) -> inspect.Parameter:
    declared = "".join(part.capitalize() for part in name.split("_"))
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=getattr(quantize_parameters, declared),
    )
