"""A plan in words: every figure in its unit, each runtime's share, each note once."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lrq_deploy.cli.reports.plan import print_plan
from lrq_deploy.planning.plan import (
    BatchNormVerdict,
    Duration,
    Execution,
    LayerFacts,
    Plan,
    PlannedLayer,
    PlannedQuantizer,
    Sizes,
)
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

CONVOLUTION = LayerFacts("stem", "conv2d", "dense", (16, 3, 5, 5), 7_500_000, 99, 6, 8, False)
DEPTHWISE = LayerFacts("deep", "conv2d", "depthwise", (16, 1, 3, 3), 1_500_000, 99, 4, 5, False)
HEAD = LayerFacts("head", "linear", "dense", (5, 16), 80, 99, 6, 7, True)
INT8 = Execution(True, "INT8 convolution")
SLOW = Execution(True, "INT8 convolution", "often slower than FP16")
FLOAT = Execution(False, "FP32 linear")

PLAN = Plan(
    name="net",
    origin="a state dict",
    input_shape=(3, 32, 48),
    num_classes=5,
    scheme=Scheme(4, 5, 6),
    recipe="fast",
    layers=(
        PlannedLayer(CONVOLUTION, {"onnxruntime": INT8, "tensorrt": SLOW}),
        PlannedLayer(DEPTHWISE, {"onnxruntime": FLOAT, "tensorrt": SLOW}),
        PlannedLayer(HEAD, {"onnxruntime": INT8, "tensorrt": FLOAT}),
    ),
    quantizers=(
        PlannedQuantizer("input", 8, True),
        PlannedQuantizer("relu", 5, False),
        PlannedQuantizer("relu_1", 5, False),
    ),
    sizes=Sizes(4096 * 1024, 1024 * 1024, 640 * 1024, 1152 * 1024),
    batch_norm=BatchNormVerdict(2, 3, "Yes: 2 BatchNorms for 3 layers."),
    normalisation="",
    obstacle="",
    duration=Duration(
        2, 1.25, 2.5, 300, 450, {"export": 1.0, "generator": 90.0, "images": 7200.0, "student": 45}
    ),
    advice={"onnxruntime": ("as fast as 8 bits",), "tensorrt": ("half the download",)},
    alternative="",
)


def words(plan: Plan, width: int = 200) -> str:
    """The report with single spaces."""
    written = io.StringIO()
    print_plan(Console(file=written, width=width), plan, "lrq-deploy quantize net.pt")
    return re.sub(r"\s+", " ", written.getvalue())


@pytest.mark.parametrize(
    "part",
    [
        # In millions, weights before inputs, and the first word of each kernel.
        "stem conv2d 16x3x5x5 W6A8 7.50 INT8 INT8*",
        "deep depthwise conv2d 16x1x3x3 W4A5 1.50 FP32 INT8*",
        "head linear 5x16 W6A7 0.00 INT8 FP32",
        "* tensorrt, INT8 convolution, 2 layers: often slower than FP16",
        "net, 3x32x48 to 5 classes, a state dict",
        "W4A5, edge 6, recipe fast",
        "3 of activations: 2 of 5 bits, 1 of 8 bits; 1 signed",
        "9.0 M; in integers 83.3 % by onnxruntime, 100.0 % by tensorrt",
        "about 640.0 KiB, instead of 1.00 MiB with 8-bit weights and 4.00 MiB in float32",
        "in memory about 1.12 MiB, one image",
        "BatchNorm enough? Yes: 2 BatchNorms for 3 layers.",
        "about 2.0 h on this CPU with 2 threads (images 2.0 h, generator 1.5 min, student 45 s)",
        "for 300 generator and 450 student steps, from 1.25 ms per image of the network and 2.5",
        "onnxruntime - as fast as 8 bits tensorrt - half the download Next: lrq-deploy quantize",
    ],
)
def test_every_figure_is_in_its_place(part: str) -> None:
    assert part in words(PLAN)


def test_products_beside_layers_count_in_the_sum_and_in_no_share() -> None:
    said = words(replace(PLAN, strays={"lstm": 3_000_000}))
    assert "12.0 M; in integers 62.5 % by onnxruntime, 75.0 % by tensorrt" in said
    assert "in float lstm: 3.00 M multiply-adds by stored numbers" in said
    assert "in float" not in words(PLAN).replace("in float32", "")


def test_what_is_refused_has_no_command() -> None:
    said = words(replace(PLAN, obstacle="median has no ONNX form"))
    assert "refused median has no ONNX form" in said
    assert "Next:" not in said


def test_what_else_there_is_to_know_is_said_where_there_is_any() -> None:
    said = words(replace(PLAN, alternative="8 bits", normalisation="odd", remarks=("EMA", "idle")))
    for part in ("Instead - 8 bits", "pixels odd", "weights EMA weights idle"):
        assert part in said
        assert part.partition(" ")[0] + " " not in words(PLAN).replace("8-bit weights ", "")


def test_where_columns_do_not_fit_a_row_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line = "deep: depthwise conv2d 16x1x3x3, W4A5, 1.50 MMAC, onnxruntime FP32, tensorrt INT8*"
    assert line in words(PLAN, 40)
