"""``lrq-deploy inspect``: parse, one call, print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrq_deploy.cli.flags import quantize_parameters as parameter
from lrq_deploy.cli.flags.quantize_flags import run_command

if TYPE_CHECKING:
    from lrq_deploy.inspection.inspect import Inspection

__all__ = ["INSPECTION_SCHEMA", "inspect", "inspection_json"]

INSPECTION_SCHEMA = 1

AnyModel = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="Any checkpoint: torch.save, safetensors, torch.export archive, TorchScript or ONNX; "
        "or a folder with one.",
    ),
]
AllTensors = Annotated[
    bool, typer.Option("--all", help="Every tensor instead of the first and last ones.")
]


def inspect(
    model: AnyModel,
    all_tensors: AllTensors = False,
    json: parameter.Json = False,
    quiet: parameter.Quiet = False,
) -> None:
    """Say what a checkpoint is and how to quantize it. Nothing in the file is executed."""
    from lrq_deploy.cli.reports.console import ReportConsole
    from lrq_deploy.cli.reports.inspect import print_inspection
    from lrq_deploy.cli.reports.progress_view import progress_view
    from lrq_deploy.inspection.inspect import inspect_model

    console = ReportConsole()
    with progress_view(ReportConsole(stderr=True), quiet=quiet, plain=json) as view:
        found = inspect_model(model, view)
    if json:
        console.print_json(data=inspection_json(found))
    else:
        print_inspection(console, found, all_tensors)


def inspection_json(found: "Inspection") -> dict[str, Any]:
    """Plain values for ``--json``, with the schema version first; always every tensor."""
    from lrq_deploy.inspection.advice import advise

    advice = advise(found)
    outline, match = found.outline, found.match
    return {
        "schema_version": INSPECTION_SCHEMA,
        "path": str(found.path),
        "kind": found.kind,
        "size_bytes": found.size_bytes,
        "description": outline.description,
        "written_by": outline.written_by,
        "location": outline.location,
        "beside": list(outline.beside),
        "module_class": outline.module_class,
        "facts": outline.facts,
        "unsafe_globals": list(outline.unsafe_globals),
        "parameters": found.parameters,
        "batch_norms": found.batch_norms,
        "num_classes": found.num_classes,
        "class_names": list(found.class_names),
        "input_channels": found.input_channels,
        "input_shape": outline.input_shape,
        "arch": match.chosen.spec if match.chosen else None,
        "described": found.described or None,
        "candidates": [
            {"arch": c.spec, "prefix": c.prefix, "num_classes": c.num_classes}
            for c in match.candidates
        ],
        "reason": match.reason,
        "near": match.near.spec if match.near else None,
        "near_prefix": match.near.prefix if match.near else None,
        "differences": list(match.near.differences) if match.near else [],
        "outside": list(match.near.outside) if match.near else [],
        "searched": list(match.searched),
        "advice": advice.sentence,
        "python": advice.python or None,
        "example": advice.example or None,
        "averaged": outline.averaged.location if outline.averaged else None,
        "averaged_python": outline.averaged.python if outline.averaged else None,
        "commands": [run_command(run) for run in advice.runs],
        "tensors": {
            name: {"dtype": t.dtype, "shape": list(t.shape)} for name, t in outline.tensors.items()
        },
    }
