"""From the fitted student to the bundle: export, checks, figures."""

import resource
from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir

from lrq_deploy.calibration.synthetic_store import MadeSet
from lrq_deploy.cli.checking import Checked, check
from lrq_deploy.cli.improvement import improvements
from lrq_deploy.cli.result import QuantizeResult
from lrq_deploy.cli.run_identity import plain_options
from lrq_deploy.cli.stage_clock import StageClock
from lrq_deploy.cli.verdict import judge, next_commands
from lrq_deploy.export.bundle import write_bundle
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.targets import REFERENCE, TargetChoice, targets
from lrq_deploy.images import ImageSet
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.resume.run_folder import RunFolder
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.weighted import weighted_layers
from lrq_deploy.synthetic import SyntheticSet
from lrq_deploy.teacher import Teacher

__all__ = ["finish"]


def finish(
    options: QuantizeOptions,
    chosen: QuantizeOptions,
    teacher: Teacher,
    model: QuantizedModel,
    fit_metrics: Mapping[str, float],
    made: MadeSet,
    images: ImageSet | None,
    choice: TargetChoice,
    tables: Mapping[str, bytes],
    folder: RunFolder,
    clock: StageClock,
    progress: ProgressCallback,
) -> QuantizeResult:
    """Write the bundle of a fitted student, and remove what the run kept.

    Args:
        options: of the run.
        chosen: the same with a width per layer.
        teacher: captured.
        model: the student.
        fit_metrics: loss terms of the fit.
        made: the synthetic images.
        images: those of the user.
        choice: runtimes to write graphs for.
        tables: further files of the bundle.
        folder: with the state of the run.
        clock: of the run.
        progress: receives events.

    Raises:
        LrqError: the graph misses the parity bound, or the disk refuses.
    """
    checked, graphs = _exported(
        model, teacher, options, choice, made.synthetic, images, clock, progress
    )
    metrics = {
        "generator": made.synthetic.metrics,
        "student": dict(fit_metrics),
        **_checked_metrics(checked, choice),
        "seconds": clock.seconds,
        "seconds_saved": _saved(made),
    }
    write_bundle(
        options.out,
        model,
        {**graphs, **tables},
        made.synthetic.images,
        options.seed,
        plain_options(options),
        metrics,
        options.force,
    )
    folder.remove()
    return _result(chosen, model, checked, choice, clock, made)


def _exported(
    model: QuantizedModel,
    teacher: Teacher,
    options: QuantizeOptions,
    choice: TargetChoice,
    synthetic: SyntheticSet,
    images: ImageSet | None,
    clock: StageClock,
    progress: ProgressCallback,
) -> tuple[Checked, dict[str, bytes]]:
    """The graphs by file name, and what they were measured to be."""
    with clock.stage("export"):
        neutral = neutral_graph(model)
        graphs = _graphs(model, neutral, choice, progress)
        twin = _serialised(float_twin(model, neutral)) if options.bench else None
    with clock.stage("check"):
        return check(teacher, model, graphs, twin, synthetic, images, progress), graphs


def _checked_metrics(checked: Checked, choice: TargetChoice) -> dict[str, Any]:
    """What was measured of the finished graphs, for the manifest."""
    return {
        "fidelity": checked.fidelity.to_json(),
        "parity": checked.parity.to_json(),
        "coverage": checked.coverage.to_json(),
        "ladder": [rung.to_json() for rung in checked.ladder.rungs],
        "bench": None if checked.benchmark is None else checked.benchmark.to_json(),
        "images_source": checked.source,
        "images_remarks": list(checked.remarks),
        "targets": {
            "written": [target.name for target in choice.targets],
            "refused": dict(choice.refused),
        },
    }


def _graphs(
    model: QuantizedModel, neutral: ir.Model, choice: TargetChoice, progress: ProgressCallback
) -> dict[str, bytes]:
    """The student by file name, in the dialect of every chosen target."""
    report = StageProgress(progress, "export", len(choice.targets))
    graphs: dict[str, bytes] = {}
    for target in choice.targets:
        graphs[target.file_name] = _serialised(to_onnx(model, target, neutral))
        report.advance(message=target.file_name)
    return graphs


def _serialised(proto: onnx.ModelProto) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _result(
    options: QuantizeOptions,
    model: QuantizedModel,
    checked: Checked,
    choice: TargetChoice,
    clock: StageClock,
    made: MadeSet,
) -> QuantizeResult:
    model_file = options.out / targets().get(REFERENCE).file_name
    fidelity, parity = checked.fidelity, checked.parity
    stored = [t for x in weighted_layers(model).values() for t in (x.stored_weight, x.bias)]
    float_bytes = 4 * sum(tensor.numel() for tensor in stored if tensor is not None)
    student_bytes = model_file.stat().st_size
    verdict = judge(checked, float_bytes, student_bytes, choice.describe_refused())
    times = None if checked.benchmark is None else checked.benchmark.batches[0]
    return QuantizeResult(
        bundle_path=options.out,
        name=model.name,
        scheme=options.scheme.describe(),
        seconds=clock.total(),
        stage_seconds=clock.seconds,
        seconds_saved=_saved(made),
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        images_measured=fidelity.count,
        images_source=checked.source,
        images_remarks=checked.remarks,
        labelled=fidelity.teacher_accuracy is not None,
        teacher_accuracy=_percent(fidelity.teacher_accuracy),
        student_accuracy=_percent(fidelity.student_accuracy),
        agreement=100 * fidelity.agreement,
        label_f1=_percent(None if fidelity.labels is None else fidelity.labels.f1),
        labels_exact=_percent(None if fidelity.labels is None else fidelity.labels.exact),
        parity_top1=100 * parity.same_top1,
        parity_max_diff=parity.max_diff,
        parity_mean_diff=parity.mean_diff,
        integer_share=100 * checked.coverage.share,
        float_bytes=float_bytes,
        student_bytes=student_bytes,
        model_file=model_file,
        float_latency_ms=None if times is None else times.float_graph.p50_ms,
        student_latency_ms=None if times is None else times.quantized.p50_ms,
        improvements=improvements(options, model, checked, student_bytes),
        refused_targets=dict(choice.refused),
        ship=verdict.ship,
        verdict=verdict.sentence,
        next_commands=next_commands(options, verdict.ship),
    )


def _saved(made: MadeSet) -> dict[str, float]:
    """Seconds that the reused stages took when they were made."""
    return {"synthesize": round(made.seconds, 3)} if made.reused else {}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
