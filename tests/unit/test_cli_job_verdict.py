"""The verdict: its limits, what its sentence says, what would improve it, commands that parse."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.checked_runs import checked, coverage, fidelity, latency, rung

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, command_line, options_from
from lrq_deploy.cli.job.verdict import (
    MAX_DROP_POINTS,
    MIN_AGREEMENT,
    MIN_INTEGER_SHARE,
    MIN_SYNTHETIC_AGREEMENT,
    Verdict,
    judge,
    next_commands,
)
from lrq_deploy.export.measures.accuracy import LabelAgreement
from lrq_deploy.export.measures.coverage import KEPT_FLOAT, WEIGHT_ONLY, Coverage, LayerCoverage
from lrq_deploy.export.measures.intervals import share_interval
from lrq_deploy.export.measures.labelling import AtChance
from lrq_deploy.export.parity.ladder import Ladder
from lrq_deploy.method.images.normalisation import PixelCheck
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FLAGS = "--mean=0.485,0.456,0.406 --std=0.229,0.224,0.225"


def verdict(**changes: Any) -> Verdict:
    return judge(checked(**changes), 520, 100)


GUESSES = replace(fidelity(1.0), at_chance=AtChance(0.107, 0.1, 1000))


def test_no_student_is_judged_by_a_teacher_that_guesses() -> None:
    found = verdict(fidelity=GUESSES)
    assert (found.ship, found.accurate, found.told) == (False, False, False)
    assert found.headline == "CANNOT TELL"
    assert found.sentence.startswith(
        "the float network is right on 10.7 % of 1,000 labelled images, and chance gives 10.0 %. "
        "The student answers like the teacher on 100.00 %"
    )


def test_what_is_broken_is_told_behind_a_teacher_that_guesses_too() -> None:
    found = verdict(fidelity=GUESSES, coverage=coverage(0.5))
    assert (found.ship, found.told, found.headline) == (False, False, "DO NOT SHIP")


@pytest.mark.parametrize("source", ["folder", "synthetic"])
@pytest.mark.parametrize("labels", [False, True])
def test_pixels_that_nobody_stated_must_not_contradict_the_network(
    source: str, labels: bool
) -> None:
    measured = fidelity(1.0, 0.9, 0.9) if labels else fidelity(1.0)
    pixels = PixelCheck("why", IMAGENET, stated=False, contradicted=True)
    found = judge(checked(fidelity=measured, source=source), 520, 100, pixels=pixels)
    assert (found.ship, found.told, found.headline) == (False, False, "CANNOT TELL")
    assert f"the first BatchNorm of the network fits {FLAGS}, not 0..1. The student" in (
        found.sentence
    )


def test_pixels_that_were_stated_are_believed_and_the_headline_hangs_on_them() -> None:
    pixels = PixelCheck("why", IMAGENET, stated=True, contradicted=True)
    found = judge(checked(), 520, 100, pixels=pixels)
    assert (found.ship, found.told) == (True, True)
    assert found.headline == "SHIP IT, if --mean and --std are right"
    poor = judge(checked(fidelity=fidelity(0.5)), 520, 100, pixels=pixels)
    assert (poor.ship, poor.headline) == (False, "DO NOT SHIP")


@pytest.mark.parametrize("stated", [False, True])
def test_pixels_that_contradict_nothing_are_not_doubted(stated: bool) -> None:
    found = judge(checked(), 520, 100, pixels=PixelCheck("why", IMAGENET, stated=stated))
    assert (found.ship, found.headline) == (True, "SHIP IT")


@pytest.mark.parametrize(
    ("ratio", "student_bytes", "ship"),
    [(1.1, 521, False), (1.1, 520, True), (0.9, 521, True), (None, 521, True)],
)
def test_a_student_that_is_slower_and_larger_gains_nothing(
    ratio: float | None, student_bytes: int, ship: bool
) -> None:
    timed = checked(benchmark=None if ratio is None else latency(ratio))
    found = judge(timed, 520, student_bytes)
    assert (found.ship, found.accurate) == (ship, True)
    assert found.headline == ("SHIP IT" if ship else "DO NOT SHIP")
    said = "Slower and larger than the float network, it gains nothing."
    assert found.sentence.endswith(said) != ship


@pytest.mark.parametrize(
    ("measured", "source", "headline"),
    [
        (replace(fidelity(0.975), count=40), "folder", "SHIP IT, on 40 images that cannot decide"),
        (
            replace(fidelity(0.925), count=40),
            "folder",
            "DO NOT SHIP, on 40 images that cannot decide",
        ),
        (
            replace(fidelity(1.0, 0.9, 0.883), lost=20, gained=3),
            "folder",
            "SHIP IT, on 1,000 images that cannot decide",
        ),
        (fidelity(0.81), "synthetic", "SHIP IT, on 1,000 images that cannot decide"),
        (fidelity(0.975), "folder", "SHIP IT"),
        (fidelity(0.9), "folder", "DO NOT SHIP"),
    ],
)
def test_the_headline_says_where_the_images_do_not_decide(
    measured: Any, source: str, headline: str
) -> None:
    assert verdict(fidelity=measured, source=source).headline == headline


def test_images_do_not_decide_on_what_is_broken() -> None:
    narrow = replace(fidelity(0.975), count=40)
    assert verdict(fidelity=narrow, coverage=coverage(0.5)).headline == "DO NOT SHIP"


def test_the_verdict_is_kept_with_its_limits() -> None:
    document = verdict().to_json()
    assert (document["ship"], document["headline"]) == (True, "SHIP IT")
    assert document["limits"]["max_drop_points"] == MAX_DROP_POINTS


@pytest.mark.parametrize(
    ("student", "ship"),
    [(0.95, True), (0.92, True), (0.901, True), (0.9, True), (0.8999, False), (0.1, False)],
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


@pytest.mark.parametrize("right", [40, 500, 777, 920, 1000])
def test_a_drop_of_exactly_the_limit_is_within_it(right: int) -> None:
    """Differences of two shares of 1,000 are often a bit more in binary."""
    measured = fidelity(1.0, right / 1000, (right - 20) / 1000)
    assert verdict(fidelity=measured).ship
    measured = fidelity(1.0, right / 1000, (right - 21) / 1000)
    assert not verdict(fidelity=measured).ship


@pytest.mark.parametrize("reason", [KEPT_FLOAT, WEIGHT_ONLY])
@pytest.mark.parametrize(("integer", "ship"), [(95, True), (94, False)])
def test_layers_that_are_kept_in_float_need_not_run_in_integers(
    reason: str, integer: int, ship: bool
) -> None:
    """They are as many as all others, whose share decides; the sentence tells that of all."""
    layers = (
        LayerCoverage("kept", "conv2d", 100, False, "Conv", reason),
        LayerCoverage("integer", "conv2d", integer, True, "QLinearConv", ""),
        LayerCoverage("float", "conv2d", 100 - integer, False, "Conv", "why"),
    )
    found = verdict(coverage=Coverage(layers, {}))
    assert found.ship == ship
    assert f"{integer / 2:.1f} % in integers" in found.sentence


def test_latency_and_size_are_stated_and_decide_nothing_alone() -> None:
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
    _, plain, wide, long = next_commands(options_from(model, started), started, False, False)
    assert plain == command_line(model, replace(EVERY_FLAG, method=None, out=Path("out-lrq")))
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
        ({"bits": 2}, ["a8", "w4", "best"]),
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


NEXT = QuantizeFlags(bits=4, mean=(0.0,) * 3, std=(1.0,) * 3, out=Path("out"), resume=True)


def next_of(flags: QuantizeFlags, *judged: Any, **more: Any) -> list[str]:
    return list(next_commands(options_from(Path("net.pt"), flags), flags, *judged, **more))


def test_the_next_run_reads_pixels_as_they_fit() -> None:
    again = command_line(
        Path("net.pt"),
        replace(NEXT, mean=IMAGENET.mean, std=IMAGENET.std, out=Path("out-pixels"), resume=None),
    )
    validate = "lrq-deploy validate out"
    told = {"fitting": IMAGENET, "told": False}
    assert next_of(NEXT, False, False, **told) == [validate, again]
    assert next_of(NEXT, True, True, fitting=IMAGENET) == [validate, "lrq-deploy bench out", again]
    assert next_of(NEXT, False, False, fitting=IMAGENET)[:2] == [validate, again]


def test_where_nothing_can_be_told_no_widths_are_tried() -> None:
    found = next_of(NEXT, False, False, told=False)
    assert found == ["lrq-deploy inspect net.pt", "lrq-deploy validate out"]


@pytest.mark.parametrize(
    ("method", "default", "dropped"),
    [
        ("calibrate", "lrq", "lrq"),
        ("gdfq", "lrq", "lrq"),
        ("leaves", "lrq", "lrq"),
        ("leaves", "leaves", None),
        ("lrq", "leaves", None),
        (None, "lrq", None),
    ],
)
def test_another_method_is_dropped_first(
    method: str | None, default: str, dropped: str | None
) -> None:
    flags = replace(NEXT, method=method, resume=None)
    _, first, *_ = next_of(flags, False, False, default_method=default)
    plain = command_line(Path("net.pt"), replace(flags, method=None, out=Path(f"out-{dropped}")))
    assert (first == plain) == (dropped is not None)
    assert ("--method" in first) == (method is not None and dropped is None)


def test_a_gain_is_called_a_gain() -> None:
    gained = verdict(fidelity=fidelity(1.0, 0.9, 0.91))
    lost = verdict(fidelity=fidelity(1.0, 0.9, 0.89))
    assert "it gains 1.00 points (-0.2 to 0.2) on" in gained.sentence
    assert "it loses 1.00 points (-0.2 to 0.2) on" in lost.sentence


def test_an_interval_is_turned_where_the_student_gains() -> None:
    measured = replace(fidelity(0.9, 0.9, 0.91), lost=5, gained=15)
    assert measured.drop_interval == pytest.approx((-1.9, -0.1), abs=0.05)
    assert "it gains 1.00 points (0.1 to 1.9) on 1,000" in verdict(fidelity=measured).sentence
