"""``lrq-deploy sensitivity``: parse, measure, print. Nothing is trained but a small generator."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.flag_signature import NETWORK, with_flags
from lrq_deploy.cli.flags.option_names import saying_flags
from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, options_from
from lrq_deploy.cli.job.sensitivity_files import JSON_NAME, PICTURE_NAME, sensitivity_files
from lrq_deploy.cli.result_files import check_folder, write_files
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback

if TYPE_CHECKING:
    from lrq_deploy.sensitivity import SensitivityTable

__all__ = ["sensitivity"]

Folder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default=False,
        help=f"Folder for {JSON_NAME} and {PICTURE_NAME}; nothing is written without it.",
    ),
]
Replace = Annotated[
    bool,
    typer.Option("--force", help="Replace such files in --out."),
]


@with_flags("act_symmetry", *NETWORK, "trust_pickle", "device", "seed")
@saying_flags()
def sensitivity(
    model: parameter.Model,
    flags: QuantizeFlags,
    out: Folder = None,
    force: Replace = False,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Rank layers by what each loses at 2, 3, 4 and 8 bits, on synthetic images."""
    options = options_from(model, replace(flags, bits=8))
    if out is not None:
        check_folder(out, (JSON_NAME, PICTURE_NAME), force)
    _run(options, out, json, quiet)


def _run(options: QuantizeOptions, out: Path | None, json: bool, quiet: bool) -> None:
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.progress_view import view_beside
    from lrq_deploy.cli.reports.sensitivity import print_sensitivity

    stdout = ReportConsole()
    with view_beside(stdout, json=json, quiet=quiet) as view:
        table, remarks = _measure(options, view)
        if out is not None:
            write_files(out, sensitivity_files(table))
    if json:
        stdout.print_json(data=table.to_json())
    else:
        print_sensitivity(stdout, table, remarks)
        if out is not None:
            stdout.print(f"written: {out / JSON_NAME}, {out / PICTURE_NAME}", soft_wrap=True)


def _measure(
    options: QuantizeOptions, progress: ProgressCallback
) -> tuple["SensitivityTable", tuple[str, ...]]:
    """A short run of the generator, then one table on its images; and remarks on the model."""
    from lrq_deploy.calibration.sensitivity import measure_sensitivity, probe_settings
    from lrq_deploy.calibration.synthesize import synthesize
    from lrq_deploy.cli.job.model_remarks import model_remarks
    from lrq_deploy.cli.job.preparing import chosen_device, load_teacher
    from lrq_deploy.method.images.normalisation import check_pixels
    from lrq_deploy.method.methods import method_settings
    from lrq_deploy.method.steps.context import StageContext
    from lrq_deploy.method.suited import suited
    from lrq_deploy.student.placement import new_student
    from lrq_deploy.target import PORTABLE

    device = chosen_device(options.device)
    teacher = load_teacher(options)
    remarks = model_remarks(teacher, check_pixels(teacher), progress)
    options = suited(options, teacher)
    settings = probe_settings(teacher.input_shape)
    settings = method_settings(options.method_name, settings, options.scheme.weight_bits)
    context = StageContext(options.seed, device, progress)
    made = synthesize(teacher, settings, options.method, context)
    student = new_student(teacher, options.scheme, PORTABLE)
    table = measure_sensitivity(
        student.to(device),
        made.images.to(device),
        PORTABLE,
        options.scheme.act_symmetry == "symmetric",
        options.seed,
        teacher.name,
        progress,
        teacher.task,
    )
    return table, remarks
