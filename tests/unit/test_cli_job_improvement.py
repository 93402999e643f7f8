"""What would improve each figure of a verdict, and that none of it is refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.checked_runs import checked, coverage, fidelity, latency, options
from support.frozen_graphs import residual_student
from support.small_networks import CENTRED, SHAPE, Mobile, calibrated, graph_of

from lrq_deploy.cli.flags.quantize_flags import QuantizeFlags, options_from
from lrq_deploy.cli.job.improvement import improvements
from lrq_deploy.export.measures.coverage import Coverage
from lrq_deploy.export.measures.labelling import AtChance
from lrq_deploy.export.targets import targets
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import LayerBits, Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit


def advice(asked: QuantizeOptions, *measured: Any) -> dict[str, str]:
    return improvements(asked, targets().choose(asked.target, asked.scheme), *measured)


@pytest.mark.parametrize("bits", range(2, 9))
def test_wider_weights_are_called_larger_only_where_they_are(bits: int) -> None:
    asked, worse = options(scheme=Scheme(bits, 8)), checked(fidelity=fidelity(0.9))
    said = advice(asked, residual_student(bits, 8), worse, 10**6)["accuracy"]
    assert ("--weight-bits 4 makes the file larger" in said) == (bits == 2)
    assert ("--weight-bits 8 makes the file larger" in said) == (bits == 4)
    wider = {3: 4, 5: 8, 6: 8, 7: 8}.get(bits)
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


@pytest.mark.parametrize(
    ("scheme", "named"),
    [
        (Scheme(4, 4), ()),
        (Scheme(4, 4, residual_bits=2), ("--residual-bits 8",)),
        (Scheme(4, 4, edge_bits=None, residual_bits=None), ("--residual-bits 8", "--edge-bits 8")),
        (Scheme(8, 8, edge_bits=None, residual_bits=None), ()),
        (Scheme(8, 8, layer_bits=(LayerBits("a", 4),)), ("a larger --target-size",)),
        (Scheme(8, 8, layer_bits=(LayerBits("a", 8),)), ()),
    ],
)
def test_what_was_narrowed_further_than_unless_given_is_named(
    scheme: Scheme, named: tuple[str, ...]
) -> None:
    student = residual_student(scheme.weight_bits, scheme.act_bits)
    said = advice(options(scheme=scheme), student, checked(fidelity=fidelity(0.9)), 10**6)
    for way in ("--residual-bits 8", "--edge-bits 8", "a larger --target-size"):
        assert (way in said["accuracy"]) == (way in named)


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
    assert list(found) == ["accuracy", "integers", "size"]
    assert "--act-bits 8" in found["accuracy"]
    assert "--recipe best" in found["accuracy"]
    assert "--weight-bits" not in found["accuracy"]
    assert found["integers"] == "b: why"
    assert "--weight-bits 4 saves 4" in found["size"]
    assert "--edge-bits" not in found["size"]


def test_nothing_is_advised_for_latency_where_there_is_no_remedy() -> None:
    slow = checked(benchmark=latency(0.9))
    assert "latency" not in advice(options(), residual_student(4, 4), slow, 10**6)


@pytest.mark.parametrize(
    ("method", "default", "said"),
    [("calibrate", "lrq", True), ("leaves", "lrq", True), ("leaves", "leaves", False)],
)
def test_another_method_is_named_first(method: Any, default: str, said: bool) -> None:
    asked, poor = options(method_name=method), checked(fidelity=fidelity(0.9))
    choice = targets().choose(asked.target, asked.scheme)
    found = improvements(asked, choice, residual_student(4, 4), poor, 10**6, default)
    assert found["accuracy"].startswith(f"without --method {method} the default") == said


def test_a_teacher_that_guesses_tells_nothing_to_improve() -> None:
    blind = replace(fidelity(0.9), at_chance=AtChance(0.1, 0.1, 1000))
    choice = targets().choose("auto", options().scheme)
    measured = (residual_student(4, 4), checked(fidelity=blind), 10**6)
    found = improvements(options(), choice, *measured, told=False)
    assert "accuracy" not in found
    assert found["certainty"].startswith("labels that the float network meets")


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
    assert ("--target onnxruntime needs no clip" in found.get("latency", "")) == named


@pytest.mark.parametrize("bits", [4, 8])
def test_the_price_of_wide_activations_is_named_where_weights_pay_it(bits: int) -> None:
    asked, worse = options(scheme=Scheme(bits, 8)), checked(fidelity=fidelity(0.9))
    found = advice(asked, residual_student(bits, 8), worse, 10**6)
    assert ("not 0..127, weights -64..64" in found["accuracy"]) == (bits == 8)


@pytest.mark.parametrize(
    ("measured", "source", "said"),
    [
        (replace(fidelity(0.9, 0.9, 0.89), lost=12, gained=2), "folder", ""),
        (
            replace(fidelity(0.9, 0.9, 0.883), lost=20, gained=3),
            "folder",
            "1,000 images cannot tell on which side of the limit it is, about 9,800 would",
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
