"""That a network returned probabilities is said where they are left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_networks import SHAPE, Residual, with_statistics
from torch import Tensor, nn

from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.graph.probabilities import probability_remark
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

AS_THEY_ARE = Preprocessing((0.0,) * 3, (1.0,) * 3)


class Ending(nn.Module):
    """A classifier and what is made of its logits."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = Residual()
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.network(x))


ENDS: dict[str, tuple[Callable[[Tensor], Any], str, Task]] = {
    "logits": (lambda y: y, "", "multiclass"),
    "softmax": (lambda y: y.softmax(1), "softmax", "multiclass"),
    "log-softmax": (lambda y: y.log_softmax(1), "log-softmax", "multiclass"),
    "clamped": (lambda y: y.softmax(1).clamp(1e-6, 1 - 1e-6), "softmax", "multiclass"),
    "both": (lambda y: {"logits": y, "shares": y.softmax(1)}, "", "multiclass"),
    "packed": (lambda y: (y.softmax(1), y.mean()), "softmax", "multiclass"),
    "sigmoid": (lambda y: y.sigmoid(), "sigmoid", "multilabel"),
    "yes or no": (lambda y: y, "", "multilabel"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_network_is_named_where_it_is_left_out(name: str) -> None:
    end, said, task = ENDS[name]
    network = with_statistics(Ending(end))
    remark = probability_remark(
        network, make_teacher(network, SHAPE, AS_THEY_ARE, "net", "", task=task)
    )
    assert remark.startswith(f"the network ends in a {said}, which is left out") == bool(said)
    assert ("apply a softmax" in remark) == said.endswith("softmax")


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_archive_is_asked_with_its_own_batch(batch: int, dynamic: bool) -> None:
    network = with_statistics(Ending(ENDS["softmax"][0]))
    sizes = ({0: torch.export.Dim("n", min=1)},) if dynamic and batch > 1 else None
    program = torch.export.export(network, (torch.zeros(batch, *SHAPE),), dynamic_shapes=sizes)
    teacher = make_teacher(program, SHAPE, AS_THEY_ARE, "net", "")
    assert "ends in a softmax" in probability_remark(program, teacher)


def test_a_run_is_told(tmp_path: Any) -> None:
    options = QuantizeOptions(tmp_path / "net", tmp_path / "out", input_shape=SHAPE)
    teacher = load_teacher(options, with_statistics(Ending(ENDS["softmax"][0])))
    (remark,) = teacher.remarks
    assert "the graphs return logits" in remark
    assert load_teacher(options, with_statistics(Residual())).remarks == ()
