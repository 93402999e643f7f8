"""``lrq-deploy quantize``: parse, one call, a typed result."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrq_deploy.cli import quantize_parameters as parameter
from lrq_deploy.cli.quantize_flags import (
    QuantizeFlags,
    command_line,
    control_from,
    options_from,
    parse_bits,
    parse_floats,
    parse_integers,
    parse_width,
)
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.resume.stop_request import RunStopped, stop_on_signals

if TYPE_CHECKING:
    from lrq_deploy.cli.result import QuantizeResult

__all__ = ["quantize", "run_and_report"]


def quantize(
    model: parameter.Model,
    bits: parameter.BitsOrMixed = None,
    target_size: parameter.TargetSize = None,
    weight_bits: parameter.WeightBits = None,
    act_bits: parameter.ActBits = None,
    edge_bits: parameter.EdgeBits = None,
    residual_bits: parameter.ResidualBits = None,
    act_symmetry: parameter.ActSymmetry = None,
    depthwise: parameter.Depthwise = None,
    target: parameter.Target = None,
    bench: parameter.Bench = None,
    arch: parameter.Arch = None,
    input_shape: parameter.InputShape = None,
    mean: parameter.Mean = None,
    std: parameter.Std = None,
    output: parameter.Output = None,
    task: parameter.Task = None,
    images: parameter.Images = None,
    trust_pickle: parameter.TrustPickle = None,
    long_range: parameter.LongRange = None,
    margin: parameter.Margin = None,
    decoupled: parameter.Decoupled = None,
    method: parameter.Method = None,
    recipe: parameter.Recipe = None,
    device: parameter.Device = None,
    seed: parameter.Seed = None,
    out: parameter.Out = None,
    force: parameter.Force = None,
    cache: parameter.Cache = None,
    resume: parameter.Resume = None,
    checkpoint_every: parameter.CheckpointEvery = None,
    max_memory: parameter.MaxMemory = None,
    config: parameter.Config = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Quantize a trained classifier without data, to a checked integer ONNX graph."""
    flags = QuantizeFlags(
        bits=parse_bits(bits),
        target_size=target_size,
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
        images=images,
        method=method,
        recipe=recipe,
        device=device,
        seed=seed,
        out=out,
        force=force,
        trust_pickle=trust_pickle,
        long_range=long_range,
        margin=margin,
        decoupled=decoupled,
        target=target,
        bench=bench,
        cache=cache,
        resume=resume,
        checkpoint_every=checkpoint_every,
        max_memory=max_memory,
    )
    if config is not None:
        from lrq_deploy.cli.config_file import read_config

        flags = flags.over(read_config(config))
    run_and_report(model, flags, json=json, quiet=quiet)


def _stopped(
    model: Path, flags: QuantizeFlags, options: QuantizeOptions, stopped: RunStopped
) -> typer.Exit:
    """The end of a run that was stopped, after a word on how to go on."""
    from lrq_deploy.resume.run_folder import run_folder_of

    folder = run_folder_of(options.out)
    if folder.exists():
        command = command_line(model, replace(flags, resume=True))
        typer.echo(f"{stopped}; the state of the run is in {folder}. Continue it with", err=True)
        typer.echo(f"  {command}", err=True)
    # What a shell reports of a process that a signal ended.
    return typer.Exit(128 + stopped.number)


def run_and_report(
    model: Path, flags: QuantizeFlags, *, json: bool, quiet: bool
) -> "QuantizeResult":
    """Run the pipeline with progress, then print the result.

    A run that is stopped by a signal keeps its state first and names the command that continues
    it.

    Args:
        model: checkpoint file.
        flags: of the run.
        json: print JSON on stdout, and plain progress on stderr.
        quiet: show no progress.
    """
    from rich.console import Console

    from lrq_deploy.cli.pipeline import quantize as run_pipeline
    from lrq_deploy.cli.progress_view import view_beside
    from lrq_deploy.cli.report import print_report

    options, control = options_from(model, flags), control_from(flags)
    stdout = Console()
    try:
        with view_beside(stdout, json=json, quiet=quiet) as view, stop_on_signals() as stop:
            result = run_pipeline(options, view, control=replace(control, stop=stop))
    except RunStopped as stopped:
        raise _stopped(model, flags, options, stopped) from stopped
    if json:
        stdout.print_json(data=result.to_json())
    else:
        print_report(stdout, result)
    return result
