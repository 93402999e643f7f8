"""``lrq-deploy plan``: parse, one call, print. Nothing is trained or written."""

from dataclasses import replace
from pathlib import Path

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.flag_signature import NETWORK, WIDTHS, with_flags
from lrq_deploy.cli.flags.option_names import saying_flags
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, command_line, options_from
from lrq_deploy.errors import OptionError
from lrq_deploy.options import QuantizeOptions

__all__ = ["plan"]

DEFAULT_BITS = "4"


@with_flags(*WIDTHS, "target", *NETWORK, "trust_pickle", "long_range", "method", "recipe")
@saying_flags()
def plan(
    model: parameter.Model,
    bits: parameter.PlannedBits = DEFAULT_BITS,
    *,
    flags: QuantizeFlags,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Say what quantize would do, in seconds: layers, sizes, runtimes, time. Trains nothing."""
    flags = replace(flags, bits=_one_width(bits))
    _print(model, flags, options_from(model, flags), json, quiet)


def _one_width(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            "--bits of a plan must be one number of bits; mixed widths are chosen by quantize "
            "--bits mixed, and sensitivity shows what each costs",
            repr(text),
            "pass --bits 4",
        ) from None


def _print(
    model: Path, flags: QuantizeFlags, options: QuantizeOptions, json: bool, quiet: bool
) -> None:
    from lrq_deploy.cli.job.rehearsing import rehearse_student
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.plan import print_plan
    from lrq_deploy.cli.reports.progress_view import view_beside
    from lrq_deploy.export.targets import targets
    from lrq_deploy.planning.make import make_plan

    choice = targets().choose(options.target, options.scheme)
    # What auto leaves out is shown too, with the reason.
    shown = {target.name for target in choice.targets} | set(choice.refused)
    runtimes = [targets().get(name) for name in sorted(shown)]
    console = ReportConsole()
    with view_beside(ReportConsole(stderr=True), json=json, quiet=quiet) as view:
        found = make_plan(
            options,
            runtimes,
            choice.limits,
            lambda student, teacher: rehearse_student(
                student, options.scheme, teacher, choice.targets
            ),
            view,
        )
    if json:
        console.print_json(data=found.to_json())
    else:
        fitting = found.fitting
        if fitting is not None:
            # What was just said not to fit, or to be missing, is not to be typed again.
            flags = replace(flags, mean=fitting.mean, std=fitting.std)
        print_plan(console, found, command_line(model, flags))
