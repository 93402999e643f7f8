"""The verdict: its limits, what its sentence says, what would improve it, commands that parse."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.frozen_graphs import residual_student
from support.small_networks import CENTRED, SHAPE, Mobile, calibrated, graph_of

from lrq_deploy.cli.checking import Checked
from lrq_deploy.cli.improvement import improvements
from lrq_deploy.cli.quantize_flags import QuantizeFlags, command_line, options_from
from lrq_deploy.cli.verdict import (
    MAX_DROP_POINTS,
    MIN_AGREEMENT,
    MIN_INTEGER_SHARE,
    MIN_SYNTHETIC_AGREEMENT,
    Verdict,
    judge,
    next_commands,
)
from lrq_deploy.export.accuracy import Fidelity, LabelAgreement
from lrq_deploy.export.bounds import Bound
from lrq_deploy.export.coverage import Coverage, LayerCoverage
from lrq_deploy.export.intervals import share_interval
from lrq_deploy.export.ladder import Ladder, Rung
from lrq_deploy.export.latency import BatchLatency, Benchmark, BenchmarkOptions, Distribution
from lrq_deploy.export.parity import Parity
from lrq_deploy.export.targets import targets
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit


def fidelity(agreement: float = 1.0, teacher: float | None = None, student: float = 0.0) -> Any:
    return Fidelity(
        count=1000,
        labelled=0 if teacher is None else 1000,
        agreement=agreement,
        teacher_accuracy=teacher,
        student_accuracy=None if teacher is None else student,
        lost=0,
        gained=0,
    )


def coverage(share: float = 1.0) -> Coverage:
    done = round(1000 * share)
    return Coverage(
        (
            LayerCoverage("a", "conv2d", done, True, "QLinearConv", ""),
            LayerCoverage("b", "conv2d", 1000 - done, False, "Conv", "why"),
        ),
        {},
    )


def advice(asked: QuantizeOptions, *measured: Any) -> dict[str, str]:
    return improvements(asked, targets().choose(asked.target, asked.scheme), *measured)


PARITY = Parity(
    count=1000, same_top1=1.0, same_rows=1.0, identical_rows=1.0, max_diff=0.0, mean_diff=0.0
)


def rung(name: str, same_top1: float = 1.0) -> Rung:
    parity = replace(PARITY, same_top1=same_top1)
    return Rung(name, name.upper(), Bound(), parity)


def latency(ratio: float) -> Benchmark:
    times = BatchLatency(1, Distribution(10.0, 0, 0), Distribution(10 * ratio, 0, 0))
    return Benchmark(BenchmarkOptions(), "cpu", "rt", (times,), 1, 1, None, None)


def checked(**changes: Any) -> Checked:
    good: dict[str, Any] = {
        "fidelity": fidelity(),
        "parity": PARITY,
        "coverage": coverage(),
        "ladder": Ladder((rung("reference"), rung("onnxruntime-all"))),
        "benchmark": latency(0.5),
        "source": "folder",
    }
    return Checked(**{**good, **changes})


def verdict(**changes: Any) -> Verdict:
    return judge(checked(**changes), 520, 100)


@pytest.mark.parametrize(
    ("student", "ship"),
    [(0.95, True), (0.92, True), (0.90 + 1e-9, True), (0.8999, False), (0.1, False)],
)
def test_labels_decide_by_the_drop(student: float, ship: bool) -> None:
    found = verdict(fidelity=fidelity(0.5, 0.92, student))
    assert found.ship == found.accurate == ship
    assert f"(limit {MAX_DROP_POINTS:g})" in found.sentence
    assert "labelled" in found.sentence


@pytest.mark.parametrize(
    ("source", "agreement", "ship"),
    [
        ("folder", 1.0, True),
        ("folder", MIN_AGREEMENT, True),
        ("folder", 0.94, False),
        ("synthetic", MIN_SYNTHETIC_AGREEMENT, True),
        ("synthetic", 0.79, False),
    ],
)
def test_without_labels_the_agreement_decides(source: str, agreement: float, ship: bool) -> None:
    words = "your images" if source == "folder" else "synthetic and harder than data"
    found = verdict(fidelity=fidelity(agreement), source=source)
    assert found.ship == found.accurate == ship
    assert words in found.sentence
    low, high = (100 * end for end in share_interval(agreement, 1000))
    assert f"{100 * agreement:.2f} % ({low:.1f} to {high:.1f}) of 1,000 images" in found.sentence


@pytest.mark.parametrize(
    ("agreement", "f1", "ship"),
    [(0.99, 0.96, True), (0.99, 0.94, False), (0.94, 0.99, False)],
)
def test_yes_or_no_labels_need_agreement_and_f1(agreement: float, f1: float, ship: bool) -> None:
    labels = LabelAgreement(exact=0.5, f1=f1, per_label=(agreement,))
    found = verdict(fidelity=replace(fidelity(agreement), labels=labels))
    assert found.ship == ship
    low, high = (100 * end for end in share_interval(agreement, 1000))
    share = f"{100 * agreement:.2f} % ({low:.1f} to {high:.1f})"
    assert f"{share} of the labels of 1,000 images" in found.sentence
    assert f"F1 of the yes answers {100 * f1:.2f} %" in found.sentence


@pytest.mark.parametrize(("share", "ship"), [(1.0, True), (MIN_INTEGER_SHARE, True), (0.9, False)])
def test_the_graph_must_run_in_integers(share: float, ship: bool) -> None:
    found = verdict(coverage=coverage(share))
    assert found.ship == ship
    assert found.accurate
    assert f"{100 * share:.1f} % in integers" in found.sentence


def test_latency_and_size_are_stated_and_decide_nothing() -> None:
    assert "takes 0.50 of the time of the float network here, on one thread" in verdict().sentence
    assert "is 5.2 x smaller" in verdict().sentence
    slow = verdict(benchmark=latency(1.3))
    assert "but takes 1.30 x the time of the float network" in slow.sentence
    assert slow.ship
    assert "float network" not in verdict(benchmark=None).sentence


@pytest.mark.parametrize(
    ("name", "ship"), [("reference", False), ("onnxruntime-all", False), ("tensorrt-dialect", True)]
)
def test_a_form_below_its_bound_is_named(name: str, ship: bool) -> None:
    found = verdict(ladder=Ladder((rung("simulation"), rung(name, 0.9))))
    assert found.ship == ship
    assert f"but look at {name.upper()} with validate" in found.sentence
    assert "SIMULATION" not in found.sentence


def test_a_refused_runtime_is_named() -> None:
    found = judge(checked(), 1, 1, ("no graph for tensorrt: why; do so",))
    assert found.sentence.endswith(" No graph for tensorrt: why; do so.")


def options(**changes: Any) -> QuantizeOptions:
    return QuantizeOptions(**{"model": Path("a b.pt"), "out": Path("out"), **changes})


def commands(flags: QuantizeFlags, ship: bool, accurate: bool = False) -> list[list[str]]:
    made = options_from(Path("a b.pt"), flags)
    said = next_commands(made, flags, ship, ship or accurate)
    return [shlex.split(command) for command in said]


def test_a_good_student_is_validated_and_timed() -> None:
    flags = QuantizeFlags(bits=4, images=Path("my photos"), out=Path("out"))
    validate, bench = commands(flags, True)
    assert validate == ["lrq-deploy", "validate", "out", "--images", "my photos"]
    assert bench == ["lrq-deploy", "bench", "out"]
    assert commands(replace(flags, images=None), True)[0] == ["lrq-deploy", "validate", "out"]


def test_nothing_is_tried_for_accuracy_that_is_good_enough() -> None:
    flags = QuantizeFlags(bits=4, out=Path("out"))
    assert commands(flags, False, accurate=True) == [["lrq-deploy", "validate", "out"]]
    assert len(commands(flags, False, accurate=False)) == 3


EVERY_FLAG = QuantizeFlags(
    bits=4,
    arch="net.py:build",
    input_shape=(3, 8, 8),
    mean=(-0.5,) * 3,
    std=(1.0,) * 3,
    output="0",
    task="multiclass",
    images=Path("x"),
    method="gdfq",
    recipe="fast",
    device="cpu",
    precision="float32",
    seed=3,
    out=Path("out"),
    trust_pickle=True,
    long_range=False,
    margin="b",
    target="all",
    bench=False,
    cache=Path("kept"),
    max_memory=900,
)


def test_the_next_runs_are_this_one_but_for_what_they_try() -> None:
    started = replace(EVERY_FLAG, resume=True, force=True)
    model = Path("a b.pt")
    _, wide, long = next_commands(options_from(model, started), started, False, False)
    wider = replace(EVERY_FLAG, act_bits=8, out=Path("out-a8"))
    longer = replace(EVERY_FLAG, recipe="best", out=Path("out-best"))
    for command, changed in ((wide, wider), (long, longer)):
        assert command == command_line(model, changed)
        assert "--trust-pickle --no-long-range --margin b" in command


@pytest.mark.parametrize(
    ("flags", "tried"),
    [
        ({"bits": 8}, ["best"]),
        ({"bits": 8, "recipe": "best"}, []),
        ({"bits": 4}, ["a8", "best"]),
        ({"weight_bits": 2, "act_bits": 8}, ["w4", "best"]),
        ({"bits": 3, "recipe": "best"}, ["w4", "a8"]),
        ({"weight_bits": 5, "act_bits": 8, "recipe": "best"}, ["w8"]),
        ({"bits": 7}, ["w8", "a8", "best"]),
        ({"bits": "mixed", "target_size": 1.0}, ["best"]),
        ({"bits": "mixed", "target_size": 1.0, "act_bits": 4}, ["a8", "best"]),
    ],
)
def test_what_costs_nothing_is_tried_first(flags: dict[str, Any], tried: list[str]) -> None:
    _, *again = commands(QuantizeFlags(**flags, out=Path("out")), False)
    assert [words[-1] for words in again] == [f"out-{suffix}" for suffix in tried]
    for words in again:
        if words[-1].startswith("out-w"):
            assert words[words.index("--weight-bits") + 1] == words[-1][-1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_wider_weights_are_called_larger_only_where_they_are(bits: int) -> None:
    asked, worse = options(scheme=Scheme(bits, 8)), checked(fidelity=fidelity(0.9))
    said = advice(asked, residual_student(bits, 8), worse, 10**6)["accuracy"]
    assert ("--weight-bits 8 makes the file larger" in said) == (bits == 4)
    wider = {2: 4, 3: 4, 5: 8, 6: 8, 7: 8}.get(bits)
    free = f"--weight-bits {wider} takes the same room in the file"
    assert said.startswith(free) == (wider is not None)
    assert said.count("--weight-bits") == (0 if bits == 8 else 1)


WIDTHS: list[dict[str, Any]] = [
    *({"bits": bits} for bits in range(2, 9)),
    {"weight_bits": 8, "act_bits": 4},
    {"weight_bits": 4, "act_bits": 8},
    {"bits": "mixed", "target_size": 1.0},
    {"bits": "mixed", "target_size": 1.0, "act_bits": 4},
]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"edge_bits": "same"},
        {"act_symmetry": "asymmetric"},
        {"depthwise": "float"},
        {"int4_linear": True},
        {"target": "tensorrt"},
        {"target": "onnxruntime"},
    ],
    ids=str,
)
def test_what_is_advised_is_not_refused(widths: dict[str, Any], more: dict[str, Any]) -> None:
    model = Path("a.pt")
    asked = options_from(model, QuantizeFlags(**widths, **more))
    student = residual_student(asked.scheme.weight_bits, asked.scheme.act_bits)
    poor = checked(fidelity=fidelity(0.9), benchmark=latency(0.9))
    said = " ".join(advice(asked, student, poor, 2000).values())
    advised = re.findall(r"--([a-z-]+-bits|recipe|target) (\w+)", said)
    assert ("recipe", "best") in advised
    for name, value in advised:
        followed = {name.replace("-", "_"): int(value) if value.isdigit() else value}
        options_from(model, QuantizeFlags(**{**widths, **more, **followed}))


def test_widths_that_were_chosen_per_layer_are_not_advised_on() -> None:
    asked = options(scheme=Scheme(4, 4), target_size=1.0)
    found = advice(asked, residual_student(8, 4), checked(fidelity=fidelity(0.9)), 2000)
    assert "--act-bits 8" in found["accuracy"]
    assert "--weight-bits" not in found["accuracy"]
    assert "size" not in found


def int4_student(edge_bits: int) -> QuantizedModel:
    """Its last layer has INT4 weights and a float input."""
    network, scheme = Mobile(32), Scheme(8, 8, edge_bits, int4_linear=True)
    teacher = Teacher(graph_of(network), SHAPE, 5, CENTRED, "net", "")
    return frozen_model(calibrated(network, scheme), scheme, teacher)


@pytest.mark.parametrize("edge_bits", [4, 8])
def test_an_inner_layer_in_front_of_an_int4_head_is_no_edge(edge_bits: int) -> None:
    model = int4_student(edge_bits)
    assert "layers.head" not in model.layers()
    found = advice(options(scheme=model.scheme), model, checked(), 2000)["size"]
    # The first layer alone: 32 filters of 3 x 3 x 3.
    assert (f"--edge-bits 4 saves {100 * 432 / 2000:.0f} %" in found) == (edge_bits == 8)
    assert ("--edge-bits" in found) == (edge_bits == 8)
    assert "--weight-bits 4 saves" in found


def test_a_gain_is_called_a_gain() -> None:
    gained = verdict(fidelity=fidelity(1.0, 0.9, 0.91))
    lost = verdict(fidelity=fidelity(1.0, 0.9, 0.89))
    assert "it gains 1.00 points (-0.2 to 0.2) on" in gained.sentence
    assert "it loses 1.00 points (-0.2 to 0.2) on" in lost.sentence


def test_a_perfect_narrow_student_needs_no_advice() -> None:
    whole = checked(coverage=Coverage(coverage().layers[:1], {}))
    assert advice(options(), residual_student(4, 4, edge_bits=4), whole, 1000) == {}


def test_each_figure_has_its_own_advice() -> None:
    model = residual_student(8, 4)
    found = advice(
        options(scheme=Scheme(8, 4)),
        model,
        checked(fidelity=fidelity(1.0, 0.9, 0.89), coverage=coverage(0.5), benchmark=latency(0.9)),
        sum(layer.weight_q.numel() for layer in model.layers().values()),
    )
    assert list(found) == ["accuracy", "integers", "latency", "size"]
    assert "--act-bits 8" in found["accuracy"]
    assert "--recipe best" in found["accuracy"]
    assert "--weight-bits" not in found["accuracy"]
    assert found["integers"] == "b: why"
    assert "bench" in found["latency"]
    assert "--weight-bits 4 saves 4" in found["size"]
    assert "--edge-bits" not in found["size"]


def test_float_operators_are_blamed_for_a_slow_graph() -> None:
    slow = checked(
        benchmark=latency(1.1), coverage=Coverage(coverage().layers, {"HardSwish": 3, "Mul": 1})
    )
    found = advice(options(), residual_student(4, 4), slow, 10**6)
    assert found["latency"].startswith("3 HardSwish, 1 Mul run on floats")


def test_no_advice_is_left_at_8_bits_and_the_best_recipe() -> None:
    worse = checked(fidelity=fidelity(0.9))
    asked = options(scheme=Scheme(8, 8, 8), recipe="best", target="onnxruntime")
    assert "accuracy" not in advice(asked, residual_student(8, 8), worse, 10**9)


@pytest.mark.parametrize(
    ("target", "act_bits", "symmetry", "named"),
    [
        ("auto", 8, "symmetric", True),
        ("tensorrt", 8, "symmetric", True),
        ("onnxruntime", 8, "symmetric", False),
        ("auto", 4, "symmetric", False),
        ("auto", 8, "asymmetric", False),
    ],
)
def test_one_runtime_alone_is_named_where_another_halves_the_levels(
    target: str, act_bits: int, symmetry: Any, named: bool
) -> None:
    asked = options(scheme=Scheme(4, act_bits, act_symmetry=symmetry), target=target)
    slow = checked(fidelity=fidelity(0.9), benchmark=latency(0.9))
    found = advice(asked, residual_student(4, act_bits), slow, 10**6)
    assert ("--target onnxruntime gives activations 0..255" in found["accuracy"]) == named
    assert ("--target onnxruntime needs no clip" in found["latency"]) == named


@pytest.mark.parametrize("bits", [4, 8])
def test_the_price_of_wide_activations_is_named_where_weights_pay_it(bits: int) -> None:
    asked, worse = options(scheme=Scheme(bits, 8)), checked(fidelity=fidelity(0.9))
    found = advice(asked, residual_student(bits, 8), worse, 10**6)
    assert ("not 0..127, weights -64..64" in found["accuracy"]) == (bits == 8)


def test_an_interval_is_turned_where_the_student_gains() -> None:
    measured = replace(fidelity(0.9, 0.9, 0.91), lost=5, gained=15)
    assert measured.drop_interval == pytest.approx((-1.9, -0.1), abs=0.05)
    assert "it gains 1.00 points (0.1 to 1.9) on 1,000" in verdict(fidelity=measured).sentence


@pytest.mark.parametrize(
    ("measured", "source", "said"),
    [
        (replace(fidelity(0.9, 0.9, 0.89), lost=12, gained=2), "folder", ""),
        (
            replace(fidelity(0.9, 0.9, 0.883), lost=20, gained=3),
            "folder",
            "1,000 images do not tell on which side of the limit it is, about 9,800 would",
        ),
        (replace(fidelity(0.9, 0.9, 0.88), lost=20, gained=0), "folder", "more would"),
        (fidelity(1.0), "synthetic", ""),
        (fidelity(0.99), "synthetic", "--images measures on yours"),
        (fidelity(0.955), "folder", "about 7,300 would"),
        (fidelity(0.945), "folder", "about 7,300 would"),
        (replace(fidelity(1.0), count=40), "folder", "about 73 would"),
        (replace(fidelity(1.0, 1.0, 1.0), labelled=50), "folder", "about 96 would"),
    ],
)
def test_too_few_images_are_named(measured: Any, source: str, said: str) -> None:
    found = advice(
        options(), residual_student(4, 4), checked(fidelity=measured, source=source), 10**6
    )
    assert said in found.get("certainty", "")
    assert ("certainty" in found) == bool(said)
