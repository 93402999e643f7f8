"""What forms of a student are held to: integers strictly, floats as torch's float32 is."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import CENTRED, SHAPE, Mobile, Residual, calibrated, graph_of, images
from torch import Tensor, nn

from lrq_deploy.errors import ParityError
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.bounds import (
    FLOAT_GRAPH,
    MIN_SAME_ROWS_NARROW,
    MIN_SAME_TOP1,
    Bound,
    as_close_as,
    integer_bound,
    with_ties_of,
)
from lrq_deploy.export.parity.compare import Parity
from lrq_deploy.export.parity.ladder import climb
from lrq_deploy.export.parity.reference import float_operator
from lrq_deploy.export.parity.student import student_parity
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit

SCHEME = Scheme(4, 4, 8)


def parity(share: float, count: int, rows: float = 0.5) -> Parity:
    return Parity(count, share, rows, 0.0, 1.0, 1.0)


def test_a_bound_holds_both_shares() -> None:
    bound = Bound(0.99, 0.5)
    assert bound.holds(Parity(100, 0.99, 0.5, 0.0, 1.0, 1.0))
    assert not bound.holds(Parity(100, 0.98, 1.0, 0.0, 1.0, 1.0))
    assert not bound.holds(Parity(100, 1.0, 0.4, 0.0, 1.0, 1.0))
    assert bound.describe() == "top-1 >= 99 %, rows >= 50 %"


@pytest.mark.parametrize(
    ("differ", "count", "strict", "lenient"),
    [
        (0, 400, True, True),
        (1, 400, False, True),
        (2, 1000, False, True),
        (3, 1000, False, False),
        (1, 40, False, False),
    ],
)
def test_few_images_do_not_tell_a_rare_tie_from_a_fault(
    differ: int, count: int, strict: bool, lenient: bool
) -> None:
    parity = Parity(count, 1 - differ / count, 0.9, 0.0, 1.0, 1.0)
    assert Bound().holds(parity) == strict
    assert Bound(within_chance=True).holds(parity) == lenient
    assert Bound(within_chance=True).describe() == "top-1 >= 99.9 % within chance"


@pytest.mark.parametrize(
    ("simulated", "shipped", "holds"),
    [
        (parity(1.0, 4), parity(0.75, 4), True),
        (parity(39 / 41, 41), parity(38 / 41, 41), True),
        (parity(39 / 41, 41), parity(25 / 41, 41), False),
        (parity(1.0, 41), parity(20 / 41, 41), False),
        (parity(1.0, 10_000), parity(0.9985, 10_000), True),
        (parity(1.0, 10_000), parity(0.99, 10_000), False),
    ],
)
def test_as_close_as_torch_is(simulated: Parity, shipped: Parity, holds: bool) -> None:
    assert as_close_as(simulated).holds(shipped) == holds
    assert as_close_as(simulated).holds(simulated)


def test_ties_that_torch_meets_too_are_no_fault_of_a_graph() -> None:
    bound = integer_bound(replace(student(False), scheme=Scheme(8, 8, 8)))
    assert with_ties_of(parity(1.0, 1000, 0.998), bound) == bound
    relaxed = with_ties_of(parity(1.0, 32, 1.0), bound)
    assert relaxed.holds(parity(1.0, 32, 26 / 32))
    assert not relaxed.holds(parity(1.0, 32, 24 / 32))
    assert with_ties_of(parity(1.0, 8, 0.0), bound).holds(parity(1.0, 8, 0.0))


def test_one_tie_of_a_curve_is_no_fault_of_4_bits_either() -> None:
    network = Mobile()
    teacher = Teacher(graph_of(network), SHAPE, 5, CENTRED, "net", "")
    curved = frozen_model(calibrated(network, SCHEME), SCHEME, teacher)
    bound = with_ties_of(parity(1.0, 32, 1.0), integer_bound(curved))
    assert bound.holds(parity(1.0, 32, 31 / 32))
    assert not bound.holds(parity(1.0, 32, 24 / 32))
    straight = with_ties_of(parity(1.0, 32, 1.0), integer_bound(student(False)))
    assert not straight.holds(parity(1.0, 32, 31 / 32))


@pytest.mark.parametrize(
    ("simulated", "shipped", "count", "holds"),
    [
        (1.0, 0.96, 300, True),
        (1.0, 0.9, 300, False),
        (0.935, 0.92, 5000, True),
        (0.96, 0.92, 5000, True),
        (0.935, 0.75, 5000, False),
        (0.5, 0.15, 1000, True),
        (0.0, 0.0, 8, True),
    ],
)
def test_a_graph_of_floats_may_meet_thrice_the_ties_of_torch(
    simulated: float, shipped: float, count: int, holds: bool
) -> None:
    bound = with_ties_of(parity(1.0, count, simulated), FLOAT_GRAPH)
    assert bound.holds(parity(1.0, count, shipped)) == holds


class Attending(nn.Module):
    """Attention over patches: floats between quantizers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        result: Tensor = self.head(F.scaled_dot_product_attention(rows, rows, rows).mean(1))
        return result


@cache
def student(attending: bool) -> QuantizedModel:
    network = Attending().eval() if attending else Residual()
    teacher = Teacher(graph_of(network), SHAPE, 5, CENTRED, "net", "")
    return frozen_model(calibrated(network, SCHEME), SCHEME, teacher)


@pytest.mark.parametrize(
    ("scheme", "rows"),
    [
        (Scheme(4, 4, 8), 0.99),
        (Scheme(3, 4, 8), 0.99),
        (Scheme(8, 8, 8), 0.95),
        (Scheme(4, 8, 8), 0.95),
        # Neither finds a layer in this network, whose integers stay as few.
        (Scheme(4, 4, 8, depthwise="float"), 0.99),
        (Scheme(4, 4, 8, int4_linear=True), 0.99),
    ],
)
def test_integers_are_held_to_the_same_rows(scheme: Scheme, rows: float) -> None:
    model = replace(student(False), scheme=scheme)
    narrow = rows == MIN_SAME_ROWS_NARROW
    assert integer_bound(model) == Bound(MIN_SAME_TOP1, rows, rows_within_chance=not narrow)


@pytest.mark.parametrize(
    ("same", "count", "holds"),
    [(3, 4, True), (2, 4, False), (30, 32, True), (27, 32, False), (940, 1000, True),
     (900, 1000, False)],
)  # fmt: skip
def test_a_rare_tie_of_many_integers_is_no_fault(same: int, count: int, holds: bool) -> None:
    bound = integer_bound(replace(student(False), scheme=Scheme(8, 8, 8)))
    assert bound.holds(parity(1.0, count, same / count)) == holds
    assert bound.describe() == "top-1 >= 99.9 %, rows >= 95 % within chance"


@pytest.mark.parametrize(
    ("scheme", "width"),
    [(Scheme(4, 4, 8, depthwise="float"), 8), (Scheme(4, 4, 8, int4_linear=True), 32)],
)
def test_layers_that_stay_in_float_are_not_held_to_the_same_rows(
    scheme: Scheme, width: int
) -> None:
    network = Mobile(width)
    teacher = Teacher(graph_of(network), SHAPE, 5, CENTRED, "net", "")
    model = frozen_model(calibrated(network, scheme), scheme, teacher)
    assert integer_bound(model) == Bound(MIN_SAME_TOP1)


def test_layer_norm_and_attention_are_float() -> None:
    assert float_operator(student(False)) is None
    assert float_operator(student(True)) == "aten.layer_norm.default"


@pytest.mark.parametrize("attending", [True, False])
def test_rungs_have_the_bounds_of_their_student(attending: bool, tmp_path: Path) -> None:
    model = student(attending)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(to_onnx(model).SerializeToString())
    rungs = {rung.name: rung for rung in climb(model, graph, [images(8)]).rungs}
    fused, simulation = rungs["onnxruntime-all"], rungs["simulation"].parity
    assert simulation is not None
    integers = with_ties_of(simulation, integer_bound(model))
    assert fused.bound == (as_close_as(simulation) if attending else integers)
    assert fused.passes


def test_the_reference_stays_exact_where_floats_are_added(tmp_path: Path) -> None:
    model = student(True)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(to_onnx(model).SerializeToString())
    reference = next(r for r in climb(model, graph, [images(4)]).rungs if r.name == "reference")
    assert reference.bound == Bound(same_top1=1.0, same_rows=1.0)


def test_parity_needs_images() -> None:
    model = student(False)
    with pytest.raises(ParityError, match="needs images"):
        student_parity(model, open_session(to_onnx(model).SerializeToString()), [])


@given(st.integers(0, 2000))
def test_two_answers_of_two_thousand_may_differ(wrong: int) -> None:
    assert Bound().holds(parity(1 - wrong / 2000, 2000)) == (wrong <= 2)


@pytest.mark.parametrize("attending", [True, False])
def test_a_graph_that_answers_otherwise_is_an_error(attending: bool) -> None:
    model = student(attending)
    batch = images(32)
    right, wrong = to_onnx(model), to_onnx(model)
    assert student_parity(model, open_session(right.SerializeToString()), batch).same_top1 > 0.9
    head = next(i for i in wrong.graph.initializer if i.name == "layers.head.weight_q")
    values = onnx.numpy_helper.to_array(head)
    head.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), head.name))
    turned = open_session(wrong.SerializeToString())
    with pytest.raises(ParityError, match="must repeat the answers"):
        student_parity(model, turned, batch)
    assert student_parity(model, turned, batch, strict=False).same_top1 < 0.9
