"""``lrq-deploy demo``: the whole path on a network that is trained here, without a download."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from lrq_deploy.cli.commands.quantize import run_and_report
from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, command_line, options_from
from lrq_deploy.errors import OutputError
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, ProgressEvent
from lrq_deploy.resume.stop_request import RunStopped, stop_on_signals

__all__ = ["demo", "demo_flags"]

DEFAULT_OUT = Path("runs") / "demo"
BUNDLE = "bundle"
MODEL = "model.pt"
DIGITS = "digits"


def demo(
    out: parameter.DemoOut = DEFAULT_OUT,
    seed: parameter.Seed = None,
    recipe: parameter.Recipe = None,
    force: parameter.Force = None,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Train a digit classifier in seconds, then quantize it to 4 bits and show the verdict."""
    model = out / MODEL
    flags = demo_flags(out, seed=seed, recipe=recipe, force=force)
    options = options_from(model, flags)
    _check_folder(out, options)
    from lrq_deploy.cli.commands.demo_network import train_digits
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.progress_view import progress_view

    screen = ReportConsole(stderr=json)
    with progress_view(screen, quiet=quiet, plain=json) as view, _stoppable(view) as watched:
        trained = train_digits(out, options.seed, watched)
    if not quiet:
        text = (
            f"\nTrained {trained.model_file}: {trained.accuracy:.2f} % of the held-out digits "
            f"in {trained.image_folder} are right. Now without data:\n\n"
            f"  {command_line(model, flags)}\n"
        )
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
    run_and_report(model, flags, json=json, quiet=quiet)


@contextmanager
def _stoppable(view: ProgressCallback) -> Iterator[ProgressCallback]:
    """``view``, and a look at each event for a signal.

    Python drops what a signal's handler raises in a callback of an import or of a collection.
    """

    def watched(event: ProgressEvent) -> None:
        stop.obey()
        view(event)

    try:
        with stop_on_signals() as stop:
            yield watched
            stop.obey()
    except RunStopped as stopped:
        raise typer.Exit(128 + stopped.number) from stopped


def demo_flags(
    out: Path, *, seed: int | None, recipe: str | None, force: bool | None
) -> QuantizeFlags:
    """The flags of the ``quantize`` run behind a demo in the folder ``out``."""
    return QuantizeFlags(
        bits=4,
        mean=(0.0,),
        std=(1.0,),
        images=out / DIGITS,
        out=out / BUNDLE,
        seed=seed,
        recipe=recipe,
        force=force or None,
    )


def _check_folder(out: Path, options: QuantizeOptions) -> None:
    from lrq_deploy.export.bundle.output_directory import check_output

    used = os.path.isdir(out) and any(out.iterdir())
    if used and not options.force:
        raise OutputError(
            "--out must be a new or empty folder",
            f"{out}, which holds files",
            "pass another folder, or --force to overwrite a former demo",
        )
    if used and (foreign := _foreign(out)):
        raise OutputError(
            "--force replaces only a former demo",
            f"{out}, which also holds {', '.join(foreign[:5])}",
            "pass another folder, or move these away",
        )
    check_output(options.out, options.force)
    if used:
        from lrq_deploy.resume.control import RunControl
        from lrq_deploy.resume.run_folder import RunFolder, run_folder_of

        RunFolder(run_folder_of(options.out), RunControl()).check(options.force)


def _foreign(out: Path) -> list[str]:
    """What no demo wrote. The bundle and the state of its run are checked elsewhere."""
    from lrq_deploy.cli.commands.demo_network import image_names

    files = {f"{DIGITS}/{name}" for name in image_names()}
    folders = {BUNDLE, DIGITS, *(name.rpartition("/")[0] for name in files)}
    if any((out / name).is_file() for name in files):
        # Many a network is called so; the demo's lies beside its digits.
        files.add(MODEL)
    foreign = []
    for path in (*out.iterdir(), *(out / DIGITS).rglob("*")):
        name = path.relative_to(out).as_posix()
        ours = name in (folders if path.is_dir() else files)
        # Other commands put their files beside the bundle, and none is overwritten here.
        if not ours and not name.startswith(f"{BUNDLE}."):
            foreign.append(name)
    return sorted(foreign)
