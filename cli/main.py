"""Entry point: the commands, and the one place where errors become exit codes."""

import errno
import os
import re
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from lrq_deploy import __version__
from lrq_deploy.cli.commands.bench import bench
from lrq_deploy.cli.commands.build import build
from lrq_deploy.cli.commands.demo import demo
from lrq_deploy.cli.commands.inspect import inspect
from lrq_deploy.cli.commands.plan import plan
from lrq_deploy.cli.commands.quantize import quantize
from lrq_deploy.cli.commands.sensitivity import sensitivity
from lrq_deploy.cli.commands.validate import validate
from lrq_deploy.cli.flags.grouped_help import GroupedCommand
from lrq_deploy.cli.reports.stdout import encode_everything
from lrq_deploy.errors import (
    BoundError,
    DeviceMemoryError,
    DivergenceError,
    LrqError,
    ParityError,
    RankLostError,
    WriteError,
)
from lrq_deploy.launch import refuse_several, speaker, told_beside

__all__ = [
    "EXIT_CHECK",
    "EXIT_FAULT",
    "EXIT_INPUT",
    "EXIT_INTERRUPTED",
    "EXIT_PIPE",
    "EXIT_RUN",
    "app",
    "exit_code",
    "run",
]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_CHECK = 3
EXIT_RUN = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141

EXIT_CODES: dict[type[LrqError], int] = {
    BoundError: EXIT_CHECK,
    ParityError: EXIT_CHECK,
    DeviceMemoryError: EXIT_RUN,
    DivergenceError: EXIT_RUN,
    RankLostError: EXIT_RUN,
    WriteError: EXIT_RUN,
}
"""Of every error that is not bad input."""

SHARED = ("demo", "quantize")
"""Commands whose work several processes share."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a disk that is full, for this user or for a file of this size."""

app = typer.Typer(
    name="lrq-deploy",
    help="Low-bit integer ONNX graphs from trained PyTorch image classifiers, without data.",
    # Plain help takes a third of the start-up time of the boxed one, and reads well in a log.
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(cls=GroupedCommand, short_help="A trained classifier to a checked integer ONNX graph.")(
    quantize
)
app.command(short_help="The same on a network trained here, in a minute.")(demo)
app.command(short_help="What a checkpoint is, and how to quantize it.")(inspect)
app.command(cls=GroupedCommand, short_help="What quantize would do, in seconds.")(plan)
app.command(short_help="Which layers lose how much at which width.")(sensitivity)
app.command(short_help="Whether every form of a bundle computes the same.")(validate)
app.command(short_help="Latency, size and memory against the float network.")(bench)
app.command(short_help="An engine or a graph for a device, from a bundle.")(build)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lrq-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""
    command = context.invoked_subcommand
    if command is not None and command not in SHARED:
        refuse_several(command)


def run() -> None:
    """Run the command line and exit.

    0 done; 1 a fault of the program; 2 bad input or usage, before anything is written; 3 a check
    failed or a bound was missed; 4 the work could not be finished: the disk or the memory was full,
    the training diverged, or a process died or was not found; 130 interrupted, 141 nobody reads
    the output any more, 143 ended.
    """
    encode_everything()
    try:
        app(prog_name="lrq-deploy")
    except LrqError as error:
        _end(error)
    except SystemExit as done:
        # Typer turns Ctrl-C into this code, without a word.
        if done.code == EXIT_INTERRUPTED:
            _keep_exit_code()
            if not speaker():
                _say("interrupted")
        # So do typer and rich with this, as code 1. The signal would end training and sockets too.
        if isinstance(done.__context__, BrokenPipeError):
            sys.exit(EXIT_PIPE)
        raise
    except Exception as error:  # noqa: BLE001  the outermost frame: nothing is swallowed
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            _end(
                WriteError(
                    "every disk that is written must have room, that of TMPDIR and of stdout too",
                    str(error),
                    "free space there; quantize --resume continues a run that had begun",
                )
            )
        _show_traceback()
        here = f"{speaker()}: " if speaker() else ""
        _say(
            f"{here}lrq-deploy stopped on an unexpected {type(error).__name__}: {error}\n"
            "Unless this machine explains it (memory, disk), it is a fault of lrq-deploy. Run the "
            "same command with LRQ_DEBUG=1 in the environment for the traceback, and report both."
        )
        sys.exit(EXIT_FAULT)


def _end(error: LrqError) -> NoReturn:
    """Tell an error, unless another process does, and exit."""
    if not error.told_elsewhere and not told_beside():
        _show_traceback()
        here = f"{speaker()}: " if speaker() else ""
        _say(f"{here}error: {error.rule}\n  received: {error.received}\n  remedy: {error.remedy}")
    sys.exit(exit_code(error))


def exit_code(error: LrqError) -> int:
    """What the process returns where this error ends it."""
    found = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(found, EXIT_INPUT)


def _keep_exit_code() -> None:
    """Make CPython forget an interrupt that passed through ``exec`` of a source text.

    Such an interrupt (in the definition of a dataclass of a module being imported, say) stays
    noted although it was caught, and ends ``python -m`` by the signal in place of the exit code.
    The note is cleared wherever ``exec`` of a text starts.
    """
    exec("")


def _show_traceback() -> None:
    if os.environ.get("LRQ_DEBUG") == "1":
        _say(traceback.format_exc())


def _say(text: str) -> None:
    # Names in a file may hold what a terminal obeys.
    typer.echo(_CONTROLS.sub("?", text), err=True)
