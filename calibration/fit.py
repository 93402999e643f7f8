"""Fit a placed student to the teacher: first scales, then block by block, then as a whole."""

from torch import fx

from lrq_deploy.calibration.finite import check_finite
from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.method.fitting.reconstruction import BlockReconstruction
from lrq_deploy.method.fitting.student_training import StudentTraining
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.method.steps.context import StageContext
from lrq_deploy.method.steps.loop import run_stage
from lrq_deploy.options import MethodSwitches
from lrq_deploy.progress import StageProgress
from lrq_deploy.ranks import Ranks
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, float_twin
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.task import Task

__all__ = ["fit_student"]


def fit_student(
    student: fx.GraphModule,
    synthetic: SyntheticSet,
    settings: RecipeSettings,
    switches: MethodSwitches,
    symmetric: bool,
    task: Task,
    context: StageContext,
) -> dict[str, float]:
    """Fit ``student`` in place; the steps of ``settings`` say how much of each stage.

    All ranks have the same images, share every step, and end with the same student.

    Returns:
        Loss terms of the last step of each stage, empty where only ranges were searched, as where
        all layers stay float and no scale is learned.

    Raises:
        UnsupportedNetworkError: rounding alone makes NaN or infinity.
        DivergenceError: a loss is not finite.
    """
    images = synthetic.images
    report = StageProgress(context.progress, "ranges", 1)
    observed = images[: settings.calibration_images]
    calibrate(student, observed, symmetric, context.seed, switches.range_search)
    report.advance()
    _align(student, context.ranks)
    check_finite(student, images)
    teacher = float_twin(student)
    metrics: dict[str, float] = {}
    modules = list(student.modules())
    layers = any(isinstance(module, QuantizedLayer) for module in modules)
    scales = any(isinstance(module, ActQuantizer) and module.learns for module in modules)
    if settings.block_steps and layers:
        about = (student, teacher, images, settings, context, synthetic.overlays)
        metrics |= run_stage(BlockReconstruction(*about), context)
    if settings.student_steps and (layers or scales):
        training = StudentTraining(
            student, teacher, images, settings, switches, task, context, synthetic.overlays
        )
        metrics |= run_stage(training, context)
    return metrics


def _align(student: fx.GraphModule, ranks: Ranks) -> None:
    """Give ``student`` the scales and integer ranges that it has on the first rank."""
    ranks.align(student)
    quantizers = [module for module in student.modules() if isinstance(module, ActQuantizer)]
    ranges = ranks.on_first(lambda: [(q.zero_point, q.bounds) for q in quantizers])
    for quantizer, (zero_point, bounds) in zip(quantizers, ranges, strict=True):
        quantizer.zero_point, quantizer.bounds = zero_point, bounds
