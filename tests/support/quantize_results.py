"""The result of a run, every figure of it another number."""

from pathlib import Path

from lrq_deploy.cli.job.result import QuantizeResult

RESULT = QuantizeResult(
    bundle_path=Path("runs/resnet20-w4a4"),
    name="resnet20",
    scheme="W4A4, edge 8",
    seconds=321.5,
    stage_seconds={"generator": 92.25, "student": 201.0, "export": 3.5, "capture": 1.0},
    seconds_saved={"synthesize": 64.25},
    peak_memory_mib=1234.0,
    images_measured=1423,
    images_source="folder",
    labelled=True,
    teacher_accuracy=91.73,
    student_accuracy=90.5,
    agreement=96.25,
    agreement_interval=(95.13, 97.12),
    drop_interval=(-0.14, 2.61),
    parity_top1=99.95,
    parity_max_diff=0.0125,
    parity_mean_diff=1.5e-5,
    integer_share=99.75,
    float_bytes=1_100_000,
    student_bytes=200_000,
    model_file=Path("runs/resnet20-w4a4/model.onnx"),
    needs_onnxruntime="1.23",
    oldest_onnxruntime="1.18",
    float_latency_ms=1.5,
    student_latency_ms=0.75,
    improvements={"size": "--weight-bits 4 saves 40 % of the file"},
    refused_targets={},
    ship=True,
    accurate=True,
    headline="SHIP IT",
    verdict="the student loses 1.23 points.",
    next_commands=("lrq-deploy quantize " + "x" * 90,),
)
