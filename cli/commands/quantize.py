"""``lrq-deploy quantize``: parse, one call, a typed result."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.flag_signature import with_flags
from lrq_deploy.cli.flags.option_names import saying_flags
from lrq_deploy.cli.flags.quantize_flags import (
    QuantizeFlags,
    command_line,
    control_from,
    options_from,
)
from lrq_deploy.errors import BoundError
from lrq_deploy.launch import launch
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.resume.stop_request import RunStopped, stop_on_signals

if TYPE_CHECKING:
    from lrq_deploy.cli.job.result import QuantizeResult

__all__ = ["quantize", "run_and_report"]


@with_flags(*QuantizeFlags.__dataclass_fields__)
def quantize(
    model: parameter.Model,
    flags: QuantizeFlags,
    config: parameter.Config = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Quantize a trained classifier without data, to a checked integer ONNX graph."""
    if config is not None:
        from lrq_deploy.cli.flags.config_file import read_config

        flags = flags.over(read_config(config))
    result = run_and_report(model, flags, json=json, quiet=quiet)
    if flags.require_ship and not result.ship:
        raise BoundError(
            "--require-ship wants a student to ship",
            f"{result.headline}: {result.verdict}",
            f"follow what stands under Next; the bundle stays in {result.bundle_path}",
        )


def _stopped(
    model: Path,
    flags: QuantizeFlags,
    options: QuantizeOptions,
    shown: list[str],
    stopped: RunStopped,
) -> typer.Exit:
    """The end of a run that was stopped, after a word on how to go on."""
    from lrq_deploy.resume.run_folder import run_folder_of

    folder = run_folder_of(options.out)
    if folder.exists() and launch().first:
        command = " ".join([command_line(model, replace(flags, resume=True)), *shown])
        typer.echo(f"{stopped}; the state of the run is in {folder}. Continue it with", err=True)
        typer.echo(f"  {command}", err=True)
    # What a shell reports of a process that a signal ended.
    return typer.Exit(128 + stopped.number)


@saying_flags()
def run_and_report(
    model: Path, flags: QuantizeFlags, *, json: bool, quiet: bool
) -> "QuantizeResult":
    """Run the pipeline with progress, then print the result.

    A run that is stopped by a signal keeps its state first and names the command that continues
    it. Of several processes that share the run only the first one shows anything.

    Args:
        model: checkpoint file.
        flags: of the run.
        json: print JSON on stdout, and plain progress on stderr.
        quiet: show no progress.
    """
    from lrq_deploy.cli.job.pipeline import quantize as run_pipeline
    from lrq_deploy.cli.job.verdict import next_commands
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.progress_view import view_beside
    from lrq_deploy.cli.reports.quantize import print_report

    options, control = options_from(model, flags), control_from(flags)
    stdout = ReportConsole()
    first = launch().first
    try:
        with (
            view_beside(stdout, json=json, quiet=quiet or not first) as view,
            stop_on_signals() as stop,
        ):
            result = run_pipeline(options, view, control=replace(control, stop=stop))
    except RunStopped as stopped:
        shown = [flag for flag, on in (("--json", json), ("--quiet", quiet)) if on]
        raise _stopped(model, flags, options, shown, stopped) from stopped
    judged = (result.ship, result.accurate, result.told)
    commands = next_commands(options, flags, *judged, result.fitting, result.default_method)
    result = replace(result, next_commands=commands)
    if json and first:
        stdout.print_json(data=result.to_json())
    elif first:
        print_report(stdout, result)
    return result
