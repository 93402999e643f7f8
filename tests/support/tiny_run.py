"""A whole run on the digits that hardly trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.cli.job.result import QuantizeResult
from lrq_deploy.export.bundle.folder import Bundle, load_bundle
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import MethodSwitches, QuantizeOptions
from lrq_deploy.progress import ProgressCallback, silent
from lrq_deploy.resume.control import RunControl

# Enough to run every line of every stage. No angle exceeds this margin, so mode a2 always acts.
TINY = RecipeSettings(
    generator_steps=3,
    refinement_steps=2,
    pool_images=48,
    held_out_images=16,
    student_steps=3,
    batch_size=16,
    calibration_images=16,
    margin=3.0,
)
SWITCHES = MethodSwitches(long_range=True, margin="a2", decoupled=True)


@dataclass(frozen=True)
class Run:
    result: QuantizeResult
    bundle: Bundle


def tiny(
    teacher: TrainedDigits,
    out: Path,
    settings: RecipeSettings = TINY,
    progress: ProgressCallback = silent,
    control: RunControl | None = None,
    **changes: Any,
) -> Run:
    options = QuantizeOptions(
        **{"model": teacher.model_file, "out": out, "device": "cpu", "method": SWITCHES, **changes}
    )
    result = quantize(options, progress, settings=settings, control=control)
    return Run(result, load_bundle(out))
