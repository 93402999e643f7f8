"""The size of a teacher: four bytes per weight, each once."""

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import CENTRED, SHAPE, Mobile, Residual, graph_of
from torch import Tensor, nn

from lrq_deploy.graph.weight_bytes import weight_bytes
from lrq_deploy.teacher import Teacher

pytestmark = pytest.mark.unit


class Sharing(nn.Module):
    """One convolution called twice, once in front of a BatchNorm, and one with its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.twice.weight
        self.head = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.twice(F.relu(self.twice(x)))))
        result: Tensor = self.head(F.relu(self.tied(x)).mean((2, 3)))
        return result


class Unread(nn.Module):
    """A second head that is not asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Residual()
        self.other = nn.Linear(5, 1000)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.network(x)
        return {"logits": logits, "other": self.other(logits)}


def size_of(network: nn.Module) -> int:
    return weight_bytes(Teacher(graph_of(network), SHAPE, 5, CENTRED, "net", ""))


@pytest.mark.parametrize("network", [Residual(), Mobile(), Sharing()])
def test_a_teacher_weighs_its_parameters(network: nn.Module) -> None:
    # torch too counts shared ones once, and no statistics.
    assert size_of(network) == 4 * sum(p.numel() for p in network.parameters())


def test_calls_do_not_add_to_the_size() -> None:
    assert size_of(Sharing()) == 4 * (81 + 3 + 3 + 6 + 20)


def test_reads_do_not_add_to_the_size() -> None:
    graph = graph_of(Residual())
    read = next(node for node in graph.graph.nodes if node.op == "get_attr")
    with graph.graph.inserting_before(read):
        read.replace_all_uses_with(graph.graph.get_attr(str(read.target)))
    assert weight_bytes(Teacher(graph, SHAPE, 5, CENTRED, "net", "")) == size_of(Residual())


def test_weights_that_no_logit_depends_on_are_left_out() -> None:
    torch.manual_seed(0)
    assert size_of(Unread()) == size_of(Residual())
