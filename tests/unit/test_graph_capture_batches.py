"""Capture: networks and archives whose batch is a number, and what is said where it must be."""

import io

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, images, with_statistics
from torch import Tensor, nn

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError
from lrq_deploy.graph.capture import capture, example_input

pytestmark = pytest.mark.unit


class Viewing(nn.Module):
    """Views that mention the batch in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = F.avg_pool2d(x, 3).view(n, -1)
        x = x.reshape(n, 3, 4, 4).view(-1, 48)
        result: Tensor = self.head(x + torch.ones(1, 48).expand(n, 48))
        return result


@pytest.mark.parametrize("example_batch", [1, 2, 3])
def test_an_archive_with_a_static_batch_runs_at_any_batch(example_batch: int) -> None:
    module = with_statistics(Viewing())
    program = torch.export.export(module, (example_input(SHAPE, example_batch),))
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    graph = capture(torch.export.load(stored), SHAPE)
    for batch in (1, 2, 7):
        torch.testing.assert_close(graph(images(batch)), module(images(batch)))


def test_a_batch_that_is_read_as_a_number_runs_at_any_batch() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.avg_pool2d(x, 3).view(len(x), -1)
            result: Tensor = self.head(x.reshape(len(x), 3, 4, 4).view(int(x.shape[0]), 48))
            return result

    module = with_statistics(Counting())
    graph = capture(module, SHAPE)
    for batch in (1, 2, 7):
        torch.testing.assert_close(graph(images(batch)), module(images(batch)))


def test_a_batch_that_torch_reads_as_a_number_runs_at_any_batch() -> None:
    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.take_along_dim(x, torch.tensor([1, 0]).view(1, 2, 1, 1), 1).mean((2, 3))

    graph = capture(Tied(), SHAPE)
    for batch in (1, 2, 7):
        torch.testing.assert_close(graph(images(batch)), Tied()(images(batch)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(12, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(x.mean(1))[0][:, -1])
        return result


@pytest.mark.filterwarnings("ignore:The tensor attributes")
@pytest.mark.parametrize("example_batch", [1, 2, 4])
def test_a_recurrence_with_a_fixed_batch_is_refused(example_batch: int) -> None:
    # torch would write behind the first states, which are those of the example.
    program = torch.export.export(
        with_statistics(Recurrent()), (images(example_batch),), strict=False
    )
    with pytest.raises(UnsupportedNetworkError, match="dynamic batch"):
        capture(program, SHAPE)


def test_a_recurrence_with_any_batch_is_taken() -> None:
    module = with_statistics(Recurrent())
    graph = capture(module, SHAPE)
    torch.testing.assert_close(graph(images(5)), module(images(5)))


def test_logits_of_a_fixed_batch_are_refused_with_the_remedy() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:1].mean((2, 3)) + torch.zeros(4, 3)

    program = torch.export.export(Padded(), (example_input(SHAPE, 4),))
    with pytest.raises(UnsupportedNetworkError, match="written into the network") as refused:
        capture(program, SHAPE)
    assert "(4, 3) for a batch of 2" in str(refused.value)


def test_a_batch_that_cannot_be_loosened_is_refused_with_the_remedy() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) + torch.arange(6.0).reshape(2, 3)

    program = torch.export.export(Fixed(), (example_input(SHAPE, 2),))
    with pytest.raises(CaptureError, match="dynamic batch"):
        capture(program, SHAPE)
