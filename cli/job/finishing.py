"""From the fitted student to the bundle: export, checks, figures."""

from dataclasses import asdict, replace
from typing import Any

import onnx
import onnx_ir as ir
import torch

from lrq_deploy.calibration.synthetic_store import MadeSet
from lrq_deploy.cli.job.checking import Checked, check
from lrq_deploy.cli.job.improvement import improvements
from lrq_deploy.cli.job.mixed_widths import size_remark
from lrq_deploy.cli.job.result import QuantizeResult
from lrq_deploy.cli.job.run import Fitted, Prepared, Run
from lrq_deploy.cli.job.run_identity import plain_options
from lrq_deploy.cli.job.verdict import Verdict, judge
from lrq_deploy.export.bundle.folder import write_bundle
from lrq_deploy.export.dialects.onnxruntime import oldest_version
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.runtime.version import needed_version, version_text
from lrq_deploy.export.targets import REFERENCE, TargetChoice, targets
from lrq_deploy.graph.weight_bytes import weight_bytes
from lrq_deploy.method.suited import default_method
from lrq_deploy.process_memory import peak_bytes
from lrq_deploy.progress import ProgressCallback, StageProgress
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.synthetic import SyntheticSet

__all__ = ["finish"]


def finish(run: Run, prepared: Prepared, made: MadeSet, fitted: Fitted) -> QuantizeResult:
    """Write the bundle of a fitted student, and remove what the run kept.

    Raises:
        LrqError: the graph misses the parity bound, or the disk refuses.
    """
    checked, graphs = _exported(run, prepared, made.synthetic, fitted.model)
    written = len(graphs[targets().get(REFERENCE).file_name])
    prepared = replace(prepared, remarks=prepared.remarks + size_remark(run.options, written))
    about = (weight_bytes(prepared.teacher), written, run.choice.describe_refused())
    verdict = judge(checked, *about, prepared.pixels)
    metrics = {
        "settings": asdict(prepared.settings),
        "generator": made.synthetic.metrics,
        "student": dict(fitted.metrics),
        **_checked_metrics(checked, run.choice),
        "verdict": verdict.to_json(),
        "model_remarks": list(prepared.remarks),
        "seconds": run.clock.seconds,
        "seconds_saved": _saved(made),
    }
    write_bundle(
        run.options.out,
        fitted.model,
        {**graphs, **fitted.tables},
        made.synthetic.images,
        run.options.seed,
        plain_options(run.options),
        metrics,
        run.options.force,
        class_names=prepared.teacher.class_names,
    )
    run.folder.remove()
    return _result(run, prepared, made, fitted, checked, verdict)


def _exported(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, model: QuantizedModel
) -> tuple[Checked, dict[str, bytes]]:
    """The graphs by file name, and what they were measured to be."""
    with run.clock.stage("export"):
        neutral = neutral_graph(model)
        graphs = _graphs(model, neutral, run.choice, run.progress)
        twin = _serialised(float_twin(model, neutral)) if run.options.bench else None
    with run.clock.stage("check"):
        teacher, images = prepared.teacher, prepared.images
        return check(teacher, model, graphs, twin, synthetic, images, run.progress), graphs


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
    run: Run,
    prepared: Prepared,
    made: MadeSet,
    fitted: Fitted,
    checked: Checked,
    verdict: Verdict,
) -> QuantizeResult:
    options, model, choice, clock = fitted.options, fitted.model, run.choice, run.clock
    model_file = options.out / targets().get(REFERENCE).file_name
    fidelity, parity = checked.fidelity, checked.parity
    agreement_low, agreement_high = fidelity.agreement_interval
    student_bytes, default = model_file.stat().st_size, default_method(prepared.teacher)
    needed = needed_version(onnx.load(model_file).graph)
    pixels = prepared.pixels
    times = None if checked.benchmark is None else checked.benchmark.batches[0]
    return QuantizeResult(
        bundle_path=options.out,
        name=model.name,
        scheme=options.scheme.describe(),
        seconds=clock.total(),
        stage_seconds=clock.seconds,
        seconds_saved=_saved(made),
        peak_memory_mib=peak_bytes() / 2**20,
        peak_cuda_memory_mib=_cuda_peak(run.device),
        images_measured=fidelity.count,
        images_source=checked.source,
        model_remarks=prepared.remarks,
        images_remarks=checked.remarks,
        labelled=fidelity.teacher_accuracy is not None,
        teacher_accuracy=_percent(fidelity.teacher_accuracy),
        student_accuracy=_percent(fidelity.student_accuracy),
        agreement=100 * fidelity.agreement,
        agreement_interval=(100 * agreement_low, 100 * agreement_high),
        drop_interval=fidelity.drop_interval,
        label_f1=_percent(None if fidelity.labels is None else fidelity.labels.f1),
        labels_exact=_percent(None if fidelity.labels is None else fidelity.labels.exact),
        parity_top1=100 * parity.same_top1,
        parity_max_diff=parity.max_diff,
        parity_mean_diff=parity.mean_diff,
        integer_share=100 * checked.coverage.share,
        float_bytes=weight_bytes(prepared.teacher),
        student_bytes=student_bytes,
        model_file=model_file,
        needs_onnxruntime=version_text(needed),
        # --int4-linear may have found no layer.
        oldest_onnxruntime=version_text(min(needed, oldest_version(options.scheme))),
        float_latency_ms=None if times is None else times.float_graph.p50_ms,
        student_latency_ms=None if times is None else times.quantized.p50_ms,
        improvements=improvements(
            options, choice, model, checked, student_bytes, default, verdict.told
        ),
        refused_targets=dict(choice.refused),
        ship=verdict.ship,
        accurate=verdict.accurate,
        headline=verdict.headline,
        verdict=verdict.sentence,
        told=verdict.told,
        fitting=pixels.fitting if pixels.contradicted else None,
        default_method=default,
    )


def _cuda_peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_reserved(device) / 2**20 if device.type == "cuda" else None


def _saved(made: MadeSet) -> dict[str, float]:
    """Seconds that the reused stages took when they were made."""
    return {"synthesize": round(made.seconds, 3)} if made.reused else {}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
