"""What one ``quantize`` run hands back: everything that the report prints and nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrq_deploy.teacher import Preprocessing

__all__ = ["RESULT_SCHEMA", "QuantizeResult"]

RESULT_SCHEMA = 1


@dataclass(frozen=True)
class QuantizeResult:
    """Product of ``lrq_deploy.cli.job.pipeline.quantize``.

    Attributes:
        bundle_path: the bundle directory.
        name: what the user called the teacher.
        scheme: bit widths in words, for instance ``W4A4, edge 8``.
        seconds: wall time of the run.
        stage_seconds: wall time of each stage, in the order in which they ran.
        seconds_saved: seconds that reused stages took when they were made, by stage.
        peak_memory_mib: peak resident memory of the process.
        images_measured: images behind every figure below.
        images_source: ``folder`` for the user's images, ``synthetic`` for held-out made ones.
        labelled: whether accuracies could be measured.
        teacher_accuracy, student_accuracy: top-1 in percent, ``None`` without labels.
        agreement: percent of the same answers, one per image or one per label, from the teacher
            and from the student as ONNX Runtime runs it.
        agreement_interval, drop_interval: where the agreement in percent and the lost accuracy
            in points lie on all such images, at 95 %; the latter ``None`` without labels.
        parity_top1: percent of the same answers from ONNX Runtime and the torch student.
        parity_max_diff, parity_mean_diff: absolute difference of these logits.
        integer_share: percent of the multiply-adds that are executed in integers.
        float_bytes: size of the teacher's weights as float32, each once.
        student_bytes: size of ``model_file``.
        model_file: the exported graph.
        needs_onnxruntime: the oldest version of ONNX Runtime that runs it.
        oldest_onnxruntime: the oldest version that ``build --onnxruntime`` can write it for.
        float_latency_ms, student_latency_ms: median of one image on one thread in ONNX Runtime,
            in turns; ``None`` if it was not measured.
        improvements: what would improve ``accuracy``, ``integers``, ``latency`` and ``size``, and
            ``certainty`` where the images are too few to decide.
        refused_targets: why a runtime has no graph in the bundle, by its name.
        ship: whether the figures say that the student may be shipped.
        accurate: whether its accuracy, or its agreement, is within the limit.
        headline: the answer, with what it hangs on, for instance ``SHIP IT``.
        verdict: one sentence with the reason.
        next_commands: command lines to run next, where the run was started by one.
        model_remarks: on the model and how it is read, such as pixels that do not fit it.
        images_remarks: on the user's images, such as files that were skipped.
        label_f1: F1 in percent of the yes answers, ``None`` where an image has one class.
        labels_exact: percent of images on which all labels agree, likewise.
        told: whether what was measured tells what the student lost.
        fitting: how pixels should be normalised instead, where the first BatchNorm contradicts
            how they are and a usual normalisation fits it.
        default_method: what the network gets without ``--method``.
        peak_cuda_memory_mib: peak memory of the process on its CUDA device, as torch reserved it;
            ``None`` where none was used.
    """

    bundle_path: Path
    name: str
    scheme: str
    seconds: float
    stage_seconds: dict[str, float]
    seconds_saved: dict[str, float]
    peak_memory_mib: float
    images_measured: int
    images_source: str
    labelled: bool
    teacher_accuracy: float | None
    student_accuracy: float | None
    agreement: float
    agreement_interval: tuple[float, float]
    drop_interval: tuple[float, float] | None
    parity_top1: float
    parity_max_diff: float
    parity_mean_diff: float
    integer_share: float
    float_bytes: int
    student_bytes: int
    model_file: Path
    needs_onnxruntime: str
    oldest_onnxruntime: str
    float_latency_ms: float | None
    student_latency_ms: float | None
    improvements: dict[str, str]
    refused_targets: dict[str, str]
    ship: bool
    accurate: bool
    headline: str
    verdict: str
    next_commands: tuple[str, ...] = ()
    model_remarks: tuple[str, ...] = ()
    images_remarks: tuple[str, ...] = ()
    label_f1: float | None = None
    labels_exact: float | None = None
    told: bool = True
    fitting: Preprocessing | None = None
    default_method: str = "lrq"
    peak_cuda_memory_mib: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json``, with the schema version first."""
        document: dict[str, Any] = {"schema_version": RESULT_SCHEMA}
        for name, value in vars(self).items():
            if isinstance(value, Path):
                value = str(value)
            elif isinstance(value, Preprocessing):
                value = {"mean": list(value.mean), "std": list(value.std)}
            elif isinstance(value, tuple):
                value = list(value)
            document[name] = value
        return document
