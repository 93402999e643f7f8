"""``lrq-deploy plan``: parse, one call, print. Nothing is trained or written."""

from pathlib import Path

from lrq_deploy.cli import quantize_parameters as parameter
from lrq_deploy.cli.quantize_flags import (
    QuantizeFlags,
    command_line,
    options_from,
    parse_floats,
    parse_integers,
    parse_width,
)
from lrq_deploy.options import QuantizeOptions

__all__ = ["plan"]

DEFAULT_BITS = 4


def plan(
    model: parameter.Model,
    bits: parameter.Bits = DEFAULT_BITS,
    weight_bits: parameter.WeightBits = None,
    act_bits: parameter.ActBits = None,
    edge_bits: parameter.EdgeBits = None,
    residual_bits: parameter.ResidualBits = None,
    act_symmetry: parameter.ActSymmetry = None,
    depthwise: parameter.Depthwise = None,
    arch: parameter.Arch = None,
    input_shape: parameter.InputShape = None,
    mean: parameter.Mean = None,
    std: parameter.Std = None,
    output: parameter.Output = None,
    task: parameter.Task = None,
    trust_pickle: parameter.TrustPickle = None,
    long_range: parameter.LongRange = None,
    method: parameter.Method = None,
    recipe: parameter.Recipe = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Say what quantize would do, in seconds: layers, sizes, runtimes, time. Trains nothing."""
    flags = QuantizeFlags(
        bits=bits,
        weight_bits=weight_bits,
        act_bits=act_bits,
        edge_bits=parse_width("edge-bits", edge_bits),
        residual_bits=parse_width("residual-bits", residual_bits),
        act_symmetry=act_symmetry,
        depthwise=depthwise,
        arch=arch,
        input_shape=parse_integers("input-shape", input_shape),
        mean=parse_floats("mean", mean),
        std=parse_floats("std", std),
        output=output,
        task=task,
        method=method,
        recipe=recipe,
        trust_pickle=trust_pickle,
        long_range=long_range,
    )
    _print(model, flags, options_from(model, flags), json, quiet)


def _print(
    model: Path, flags: QuantizeFlags, options: QuantizeOptions, json: bool, quiet: bool
) -> None:
    from rich.console import Console

    from lrq_deploy.cli.plan_report import print_plan
    from lrq_deploy.cli.progress_view import progress_view
    from lrq_deploy.export.forecast import forecasts
    from lrq_deploy.planning.make import make_plan

    console = Console()
    with progress_view(Console(stderr=True), quiet=quiet, plain=json) as view:
        found = make_plan(options, forecasts(), view)
    if json:
        console.print_json(data=found.to_json())
    else:
        print_plan(console, found, command_line(model, flags))
