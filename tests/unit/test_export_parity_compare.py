"""Comparison of logits, fidelity on images, sessions."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx

from lrq_deploy.errors import ExportError, ImageError, ParityError
from lrq_deploy.export.measures.accuracy import measure
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.export.runtime.session import Session, batches_of, open_session
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit


def spatial_sum(sign: float = 1.0) -> bytes:
    """Graph ``[N, 3, 2, 2] -> [N, 3]``: the sum of each channel, times ``sign``."""
    nodes = [
        helper.make_node("ReduceSum", ["input", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "sign"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array(sign, np.float32), "sign"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def summing_teacher() -> Teacher:
    graph = fx.Graph()
    x = graph.placeholder("input")
    graph.output(graph.call_function(torch.ops.aten.sum.dim_IntList, (x, [2, 3])))
    module = fx.GraphModule(torch.nn.Module(), graph)
    return Teacher(module, (3, 2, 2), 3, Preprocessing((0.0,) * 3, (1.0,) * 3), "sum", "0")


@pytest.fixture
def session() -> Session:
    return open_session(spatial_sum())


def test_equal_logits() -> None:
    logits = torch.randn(10, 4)
    assert compare(logits, logits.clone()) == Parity(10, 1.0, 1.0, 1.0, 0.0, 0.0)


def test_differences_are_counted_by_row() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [7.0, 8.0]])
    b = a.clone()
    b[0, 0] += 1e-6
    b[1, 0] += 1.5
    b[3, 1] += 0.5
    parity = compare(a, b)
    assert (parity.same_top1, parity.same_rows, parity.identical_rows) == (0.75, 0.5, 0.25)
    assert parity.max_diff == 1.5
    assert parity.mean_diff == pytest.approx(2.0 / 8, abs=1e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4)),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.tensor([[float("nan"), 0]]), torch.zeros(1, 2)),
        (torch.zeros(1, 2), torch.tensor([[float("inf"), 0]])),
    ],
)
def test_what_cannot_be_compared_is_refused(a: Tensor, b: Tensor) -> None:
    with pytest.raises(ParityError):
        compare(a, b)


def test_session_runs_batches_of_any_size(session: Session) -> None:
    x = torch.randn(7, 3, 2, 2)
    parts = [session.logits(batch) for batch in batches_of(x, 3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), x.sum((2, 3)))
    assert session.threads == 1


def test_session_refuses_other_shapes(session: Session) -> None:
    with pytest.raises(ExportError, match="3,2,2"):
        session.logits(torch.zeros(1, 3, 4, 4))


def test_session_refuses_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    for model in (tmp_path / "model.onnx", tmp_path / "missing.onnx", b"not a graph"):
        with pytest.raises(ExportError, match="ONNX Runtime"):
            open_session(model)


def test_fidelity_with_labels(session: Session) -> None:
    x = torch.zeros(40, 3, 2, 2)
    for row in range(40):
        x[row, (0, 1, 2, 0)[row % 4]] = 1.0
    labels = torch.tensor([0, 1, 0, 0]).repeat(10)
    result = measure(summing_teacher(), session, [(x[:30], labels[:30]), (x[30:], labels[30:])])
    assert (result.count, result.labelled, result.agreement) == (40, 40, 1.0)
    assert result.teacher_accuracy == result.student_accuracy == 0.75
    assert result.drop_points == 0.0
    assert result.remark == ""


def test_fidelity_counts_losses_and_gains() -> None:
    x = torch.zeros(20, 3, 2, 2)
    x[:, 0], x[:, 2] = 1.0, -1.0
    student = open_session(spatial_sum(-1.0))
    labels = torch.tensor([0, 2, 0, 0]).repeat(5)
    result = measure(summing_teacher(), student, [(x, labels)])
    assert (result.agreement, result.lost, result.gained) == (0.0, 15, 5)
    assert result.to_json()["drop_points"] == 50.0


def test_labels_of_another_order_measure_nothing(session: Session) -> None:
    x = torch.eye(3).repeat(10, 1)[:, :, None, None].expand(-1, -1, 2, 2)
    turned = torch.arange(30) % 3
    turned = (turned + 1) % 3
    result = measure(summing_teacher(), session, [(x, turned)])
    assert (result.count, result.labelled, result.drop_points) == (30, 0, None)
    assert result.remark.startswith("the float network is right on 0.0 % of 30 labelled images")
    assert (
        measure(summing_teacher(), session, [(x, turned)], torch.tensor([2, 0, 1])).labelled == 30
    )


def test_fidelity_without_labels(session: Session) -> None:
    result = measure(summing_teacher(), session, [(torch.randn(5, 3, 2, 2), None)])
    assert (result.count, result.labelled, result.agreement) == (5, 0, 1.0)
    assert result.teacher_accuracy is None
    assert result.drop_points is None


def test_fidelity_needs_images(session: Session) -> None:
    with pytest.raises(ImageError):
        measure(summing_teacher(), session, [])


@pytest.mark.parametrize(("off", "same"), [(5e-6, 1.0), (2e-5, 0.0)])
@pytest.mark.parametrize("factor", [0.01, 1.0, 1000.0])
def test_rows_are_the_same_up_to_a_hundred_thousandth_of_the_largest_logit(
    off: float, same: float, factor: float
) -> None:
    logits = torch.tensor([[8.0, 0.5, -1.0]], dtype=torch.float64) * factor
    moved = logits + torch.tensor([0.0, 8.0 * factor * off, 0.0])
    assert compare(logits, moved).same_rows == compare(moved, logits).same_rows == same
