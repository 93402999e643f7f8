"""The verdict: its limits, what its sentence says, and commands that parse."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from lrq_deploy.cli.verdict import (
    MAX_DROP_POINTS,
    MIN_AGREEMENT,
    MIN_INTEGER_SHARE,
    judge,
    next_commands,
)
from lrq_deploy.export.accuracy import Fidelity
from lrq_deploy.export.coverage import Coverage, LayerCoverage
from lrq_deploy.export.parity import Parity
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import Scheme

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


PARITY = Parity(
    count=1000, same_top1=1.0, same_rows=1.0, identical_rows=1.0, max_diff=0.0, mean_diff=0.0
)


@pytest.mark.parametrize(
    ("student", "ship"),
    [(0.95, True), (0.92, True), (0.90 + 1e-9, True), (0.8999, False), (0.1, False)],
)
def test_labels_decide_by_the_drop(student: float, ship: bool) -> None:
    found, sentence = judge(fidelity(0.5, 0.92, student), PARITY, coverage(), "folder")
    assert found == ship
    assert f"(limit {MAX_DROP_POINTS:g})" in sentence
    assert "labelled" in sentence


@pytest.mark.parametrize(("agreement", "ship"), [(1.0, True), (MIN_AGREEMENT, True), (0.94, False)])
@pytest.mark.parametrize(
    ("source", "words"), [("folder", "your images"), ("synthetic", "synthetic images only")]
)
def test_without_labels_the_agreement_decides(
    agreement: float, ship: bool, source: str, words: str
) -> None:
    found, sentence = judge(fidelity(agreement), PARITY, coverage(), source)
    assert found == ship
    assert words in sentence
    assert f"{100 * agreement:.2f} %" in sentence


@pytest.mark.parametrize(("share", "ship"), [(1.0, True), (MIN_INTEGER_SHARE, True), (0.9, False)])
def test_the_graph_must_run_in_integers(share: float, ship: bool) -> None:
    found, sentence = judge(fidelity(), PARITY, coverage(share), "folder")
    assert found == ship
    assert f"{100 * share:.1f} % in integers" in sentence


def options(**changes: Any) -> QuantizeOptions:
    return QuantizeOptions(**{"model": Path("a b.pt"), "out": Path("out"), **changes})


def test_a_good_student_is_validated_and_timed() -> None:
    validate, bench = next_commands(options(images=Path("my photos")), True)
    assert shlex.split(validate) == ["lrq-deploy", "validate", "out", "--images", "my photos"]
    assert shlex.split(bench) == ["lrq-deploy", "bench", "out"]
    assert next_commands(options(), True)[0] == "lrq-deploy validate out"


def test_a_bad_student_is_made_wider_or_trained_longer() -> None:
    commands = next_commands(
        options(
            arch="net.py:build",
            input_shape=(3, 8, 8),
            mean=(-0.5,) * 3,
            std=(1.0,) * 3,
            images=Path("x"),
        ),
        False,
    )
    _, wider, longer = (shlex.split(command) for command in commands)
    assert wider[-4:] == ["--act-bits", "8", "--out", "out-a8"]
    assert longer[-6:] == ["--act-bits", "4", "--recipe", "best", "--out", "out-best"]
    for words in (wider, longer):
        assert words[words.index("--arch") + 1] == "net.py:build"
        assert words[words.index("--input-shape") + 1] == "3,8,8"
        assert words[words.index("--edge-bits") + 1] == "8"
        assert "--mean=-0.5,-0.5,-0.5" in words


def test_nothing_is_left_to_try_at_8_bits_and_the_best_recipe() -> None:
    commands = next_commands(
        options(scheme=Scheme(8, 8, 8), recipe="best", images=Path("x")), False
    )
    assert len(commands) == 1


def test_a_gain_is_called_a_gain() -> None:
    assert "it gains 1.00 points" in judge(fidelity(1.0, 0.9, 0.91), PARITY, coverage(), "x")[1]
    assert "it loses 1.00 points" in judge(fidelity(1.0, 0.9, 0.89), PARITY, coverage(), "x")[1]
