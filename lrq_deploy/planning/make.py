"""Plan a run: load, capture and place as ``quantize`` does, and stop before training."""

from collections.abc import Sequence

import torch

from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.operators import is_call
from lrq_deploy.graph.placement import place_quantizers
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.loading import load_model
from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import recipe_settings
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.planning.duration import estimate_duration
from lrq_deploy.planning.plan import (
    BatchNormVerdict,
    Plan,
    PlannedLayer,
    RuntimeForecast,
    Sizes,
)
from lrq_deploy.planning.survey import estimate_sizes, survey_layers, survey_quantizers
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.scheme import Scheme
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Teacher

__all__ = ["make_plan"]

FEW = 0.5
"""Share of the weighted layers with a BatchNorm below which the statistics tell little."""


def make_plan(
    options: QuantizeOptions,
    runtimes: Sequence[RuntimeForecast],
    progress: ProgressCallback = silent,
) -> Plan:
    """Say what ``quantize`` would do with these options; nothing is trained or written.

    Args:
        options: of the run; ``out`` is not looked at.
        runtimes: to forecast.
        progress: receives one event per step.

    Raises:
        LrqError: an option or the model cannot be used. A network without BatchNorm is no error
            here: the plan says that ``quantize`` refuses it.
    """
    report = StageProgress(progress, "plan", 4)
    loaded = load_model(options)
    report.advance(message="loaded")
    teacher = make_teacher(
        loaded.program,
        loaded.input_shape,
        loaded.preprocessing,
        loaded.name,
        fingerprint="",
        output=options.output,
        task=options.task,
    )
    report.advance(message="captured")
    student = place_quantizers(
        fold_batch_norm(teacher.graph), options.scheme, PORTABLE, teacher.preprocessing
    )
    layers = survey_layers(student, teacher.input_shape)
    quantizers = survey_quantizers(student)
    report.advance(message="placed")
    settings = recipe_settings(options.recipe, teacher.input_shape)
    settings = method_settings(options.method_name, settings, options.scheme.weight_bits)
    duration = estimate_duration(
        teacher, settings, options.scheme.weight_bits, len(layers), options.method.long_range
    )
    report.advance(message="measured")
    sizes = estimate_sizes(layers, len(quantizers))
    return Plan(
        name=teacher.name,
        origin=loaded.origin,
        input_shape=teacher.input_shape,
        num_classes=teacher.num_classes,
        scheme=options.scheme,
        recipe=options.recipe,
        layers=tuple(
            PlannedLayer(x, {r.name: r.execution(x, options.scheme) for r in runtimes})
            for x in layers
        ),
        quantizers=quantizers,
        sizes=sizes,
        batch_norm=_judge_batch_norm(teacher, len(layers)),
        duration=duration,
        advice={r.name: r.what_bits_buy(options.scheme, sizes) for r in runtimes},
        alternative=_alternative(options.scheme, sizes),
    )


def _judge_batch_norm(teacher: Teacher, weighted: int) -> BatchNormVerdict:
    count = sum(
        is_call(node, {torch.ops.aten.batch_norm.default}) for node in teacher.graph.graph.nodes
    )
    if count == 0:
        verdict = (
            "No: without BatchNorm there are no statistics to replace the data, and quantize "
            "refuses; use a quantizer that takes calibration images."
        )
    elif count < FEW * weighted:
        verdict = (
            f"Barely: {count} BatchNorms for {weighted} layers; the synthetic images will follow "
            "the data loosely, so measure the bundle with --images."
        )
    else:
        verdict = f"Yes: {count} BatchNorms for {weighted} layers."
    return BatchNormVerdict(count, weighted, count > 0, verdict)


def _alternative(scheme: Scheme, sizes: Sizes) -> str:
    if scheme.act_bits >= 8:
        return ""
    return (
        f"--weight-bits {scheme.weight_bits} --act-bits 8 keeps the download at "
        f"{sizes.packed_bytes / 2**20:.2f} MiB, runs as fast on both runtimes, because they "
        f"carry {scheme.act_bits}-bit activations in 8 bits anyway, and loses less accuracy; "
        f"{scheme.act_bits}-bit activations only pay on hardware that multiplies them as such."
    )
