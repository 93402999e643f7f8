"""The closing report: every figure, readable at 80 columns, and as JSON."""

import io
import json
from dataclasses import fields, replace

import pytest
from rich.console import Console
from support.quantize_results import RESULT

from lrq_deploy.cli.job.result import RESULT_SCHEMA, QuantizeResult
from lrq_deploy.cli.reports.quantize import print_report
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


def test_memory_of_a_gpu_is_reported_where_one_was_used() -> None:
    assert "on the GPU" not in report(RESULT)
    assert "1,234 MiB, and 3,177 MiB on the GPU" in report(
        replace(RESULT, peak_cuda_memory_mib=3177.0)
    )


def test_the_oldest_runtime_is_stated_with_the_way_to_an_older_one() -> None:
    words = " ".join(report(RESULT).split())
    assert "ONNX Runtime 1.23 or later; build --onnxruntime 1.18 writes it for older" in words
    assert "--onnxruntime" not in report(replace(RESULT, needs_onnxruntime="1.18"))
    # Of --int4-linear, which 1.18 has no form for.
    packed = replace(RESULT, oldest_onnxruntime="1.19")
    assert "build --onnxruntime 1.19 writes it" in " ".join(report(packed).split())
    assert "--onnxruntime" not in report(replace(packed, needs_onnxruntime="1.19"))


def report(result: QuantizeResult) -> str:
    written = io.StringIO()
    print_report(Console(file=written, width=80), result)
    return written.getvalue()


@pytest.mark.parametrize(
    "figure",
    [
        *(
            "91.73 %",
            "90.50 %",
            "-1.23 points (-2.6 to +0.1)",
            "1.05 MiB",
            "195.3 KiB",
            "5.5 x smaller",
        ),
        *(
            "96.25 % (95.1 to 97.1) of 1,423 images",
            "99.95 %",
            "0.013",
            "1.5e-05",
            "99.8 %",
            "321.5 s",
        ),
        *(
            "student 201.0 s",
            "synthesize reused, saves 64.2 s",
            "1,234 MiB",
            "runs/resnet20-w4a4",
            "W4A4, edge 8",
        ),
        *("SHIP IT: the student loses", "1.50 ms", "0.75 ms", "0.50 of the time"),
        "better size: --weight-bits 4 saves 40 % of the file.",
    ],
)
def test_every_figure_is_shown(figure: str) -> None:
    assert figure in report(RESULT)


def test_lines_fit_80_columns_except_commands_to_copy() -> None:
    lines = report(RESULT).splitlines()
    assert lines[-1] == "  " + RESULT.next_commands[0]
    assert max(len(line) for line in lines[:-1]) <= 80


def test_without_labels_agreement_takes_the_place_of_accuracy() -> None:
    text = report(
        replace(
            RESULT,
            labelled=False,
            teacher_accuracy=None,
            student_accuracy=None,
            drop_interval=None,
            images_source="synthetic",
            ship=False,
            headline="DO NOT SHIP",
            next_commands=(),
        )
    )
    assert "accuracy" not in text
    assert "96.25 % (95.1 to 97.1) of 1,423 made images" in text
    assert "DO NOT SHIP: " in text
    assert "Next" not in text


@pytest.mark.parametrize(
    ("told", "headline", "colour"),
    [(True, "DO NOT SHIP", "\x1b[1;31m"), (False, "CANNOT TELL", "\x1b[1;33m")],
)
def test_what_cannot_be_told_is_no_refusal(told: bool, headline: str, colour: str) -> None:
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=True, color_system="standard")
    print_report(console, replace(RESULT, ship=False, told=told, headline=headline))
    assert f"{colour}{headline}: " in written.getvalue()


def test_labels_on_their_own_are_counted_one_by_one() -> None:
    text = " ".join(report(replace(RESULT, label_f1=97.5, labels_exact=81.25)).split())
    assert "96.25 % (95.1 to 97.1) of the labels of 1,423 images, all labels on 81.25 %" in text
    assert "F1 of the yes answers 97.50 %" in text


def test_remarks_on_the_model_and_the_images_are_warnings() -> None:
    doubted = replace(RESULT, model_remarks=("--mean does not fit",))
    text = report(replace(doubted, images_remarks=("3 of 5 skipped",)))
    assert "warning: --mean does not fit\nwarning: 3 of 5 skipped\n" in text


def test_json_holds_every_field_and_the_schema_version() -> None:
    fitting = Preprocessing((0.5,), (0.25,))
    document = json.loads(json.dumps(replace(RESULT, fitting=fitting).to_json()))
    assert document["fitting"] == {"mean": [0.5], "std": [0.25]}
    assert document.pop("schema_version") == RESULT_SCHEMA
    assert set(document) == {field.name for field in fields(QuantizeResult)}
    assert document["model_file"] == "runs/resnet20-w4a4/model.onnx"
    assert document["stage_seconds"]["export"] == 3.5
