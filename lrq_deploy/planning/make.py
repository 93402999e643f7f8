"""Plan a run: load, capture and place as ``quantize`` does, and stop before training."""

from collections.abc import Callable, Sequence

from torch import fx

from lrq_deploy.errors import ExportError
from lrq_deploy.graph.operators import all_known
from lrq_deploy.graph.statistics import batch_norms
from lrq_deploy.graph.strays import stray_products
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.graph.weight_bytes import weight_bytes
from lrq_deploy.loading import LoadedModel, load_model
from lrq_deploy.method.chosen import chosen_settings
from lrq_deploy.method.images.normalisation import check_pixels
from lrq_deploy.method.suited import suited
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.planning.duration import estimate_duration
from lrq_deploy.planning.plan import (
    BatchNormVerdict,
    Execution,
    LayerFacts,
    Plan,
    PlannedLayer,
    RuntimeForecast,
    Sizes,
)
from lrq_deploy.planning.survey import estimate_sizes, survey_layers, survey_quantizers
from lrq_deploy.progress import ProgressCallback, StageProgress, silent
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.idle_options import idle_options
from lrq_deploy.student.placement import new_student
from lrq_deploy.target import TargetDescription
from lrq_deploy.teacher import Teacher
from lrq_deploy.wording import size_text

__all__ = ["Rehearsal", "make_plan"]

Rehearsal = Callable[[fx.GraphModule, Teacher], None]
"""Raises ``ExportError`` where no graph can be written of a placed student."""

_KEPT = Execution(False, "float convolution", "--depthwise float keeps it so")

FEW = 0.5
"""Share of the weighted layers with a BatchNorm below which the statistics tell little."""


def make_plan(
    options: QuantizeOptions,
    runtimes: Sequence[RuntimeForecast],
    limits: TargetDescription,
    rehearse: Rehearsal,
    progress: ProgressCallback = silent,
) -> Plan:
    """Say what ``quantize`` would do with these options; nothing is trained or written.

    Args:
        options: of the run; ``out`` is not looked at.
        runtimes: to forecast.
        limits: of the runtimes that graphs would be written for.
        rehearse: tries to write the graphs of the placed student; called only where the network
            has operators whose ONNX form is not known.
        progress: receives one event per step.

    Raises:
        LrqError: an option or the model cannot be used. A network with an operator that cannot be
            exported is no error here: the plan says that ``quantize`` refuses it.
    """
    report = StageProgress(progress, "plan", 4)
    loaded = load_model(options)
    report.advance(message="loaded")
    teacher = _teacher(loaded, options)
    report.advance(message="captured")
    options, scheme = suited(options, teacher), options.scheme
    student = new_student(teacher, scheme, limits)
    obstacle = _obstacle(student, teacher, rehearse)
    layers = survey_layers(student, teacher.input_shape)
    quantizers = survey_quantizers(student)
    strays = stray_products(student, teacher.input_shape)
    report.advance(message="placed")
    settings = chosen_settings(options, teacher.input_shape)
    duration = estimate_duration(
        teacher, settings, scheme.weight_bits, len(layers), options.method.long_range
    )
    report.advance(message="measured")
    pixels = check_pixels(teacher)
    sizes = estimate_sizes(layers, len(quantizers), weight_bytes(teacher))
    return Plan(
        name=teacher.name,
        origin=loaded.origin,
        input_shape=teacher.input_shape,
        num_classes=teacher.num_classes,
        scheme=scheme,
        recipe=options.recipe,
        layers=_planned(layers, runtimes, scheme),
        quantizers=quantizers,
        sizes=sizes,
        batch_norm=_judge_batch_norm(teacher, len(layers)),
        normalisation=pixels.remark,
        fitting=pixels.fitting,
        obstacle=obstacle,
        duration=duration,
        advice={r.name: r.what_bits_buy(scheme, sizes) for r in runtimes},
        alternative=_alternative(scheme, sizes),
        remarks=(*loaded.remarks, *idle_options(student, scheme)),
        strays={node.name: count for node, count in strays.items()},
    )


def _teacher(loaded: LoadedModel, options: QuantizeOptions) -> Teacher:
    return make_teacher(
        loaded.program,
        loaded.input_shape,
        loaded.preprocessing,
        loaded.name,
        output=options.output,
        task=options.task,
    )


def _obstacle(student: fx.GraphModule, teacher: Teacher, rehearse: Rehearsal) -> str:
    if all_known(student.graph):
        return ""
    try:
        rehearse(student, teacher)
    except ExportError as error:
        return f"{error.rule}; found {error.received}; {error.remedy}"
    return ""


def _planned(
    layers: Sequence[LayerFacts], runtimes: Sequence[RuntimeForecast], scheme: Scheme
) -> tuple[PlannedLayer, ...]:
    return tuple(
        PlannedLayer(x, {r.name: _KEPT if x.is_float else r.execution(x, scheme) for r in runtimes})
        for x in layers
    )


def _judge_batch_norm(teacher: Teacher, weighted: int) -> BatchNormVerdict:
    count = len(batch_norms(teacher.graph))
    if count == 0:
        verdict = (
            "None: --method leaves paints images instead, which know nothing of the data, so "
            "measure the bundle with --images."
        )
    elif count < FEW * weighted:
        verdict = (
            f"Barely: {count} BatchNorms for {weighted} layers; the synthetic images will follow "
            "the data loosely, so measure the bundle with --images."
        )
    else:
        verdict = f"Yes: {count} BatchNorms for {weighted} layers."
    return BatchNormVerdict(count, weighted, verdict)


def _alternative(scheme: Scheme, sizes: Sizes) -> str:
    if scheme.act_bits >= 8:
        return ""
    return (
        f"--weight-bits {scheme.weight_bits} --act-bits 8 keeps the download at "
        f"{size_text(sizes.packed_bytes)}, runs as fast on these runtimes, because they "
        f"carry {scheme.act_bits}-bit activations in 8 bits anyway, and loses less accuracy; "
        f"{scheme.act_bits}-bit activations only pay on hardware that multiplies them as such."
    )
