"""Which tensors share a quantizer, which have none, and what is no tensor."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import calibrated, graph_of, images, placed, quantizers
from torch import Tensor, nn

from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import QuantizedLayer, is_quantizer

pytestmark = pytest.mark.unit


class BesideTheImage(nn.Module):
    """ENet's first block: a convolution's result and the pooled image, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 13, 3, 2, 1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first(x) * 5, F.max_pool2d(x, 2)], 1)
        result: Tensor = self.head(F.relu(self.second(x)).mean((2, 3)))
        return result


def test_what_is_concatenated_with_the_image_keeps_its_own_range() -> None:
    student = calibrated(BesideTheImage(), Scheme(8, 8))
    assert not any(quantizer.known_range for quantizer in quantizers(student).values())
    batch = images(16, seed=5)
    wanted = graph_of(BesideTheImage())(batch)
    with torch.no_grad():
        off = (student(batch) - wanted).norm() / wanted.norm()
    assert float(off) < 0.05


class WindowToken(nn.Module):
    """A class token for each of the windows of all images: the batch is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        count = x.shape[0]
        x = x.permute(0, 2, 3, 1).reshape(count, 2, 6, 2, 6, 8).permute(0, 1, 3, 2, 4, 5)
        x = torch.cat([self.token.expand(count * 4, -1, -1), x.reshape(count * 4, 36, 8)], 1)
        result: Tensor = self.head(self.mix(x)[:, 0].reshape(count, 4, 8).mean(1))
        return result


def test_numbers_made_of_the_batch_are_no_tensors() -> None:
    student = calibrated(WindowToken(), Scheme(8, 8))
    batch = images(5, seed=3)
    wanted = graph_of(WindowToken())(batch)
    with torch.no_grad():
        torch.testing.assert_close(student(batch), wanted, rtol=0.1, atol=0.05)


class OneWide(nn.Module):
    """Ends in a convolution over one place and whatever makes rows of its results."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.head = nn.Conv2d(8, 5, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(F.relu(self.stem(x)).mean((2, 3), keepdim=True)))


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda y: y.flatten(1),
    "clip": lambda y: F.hardtanh(y).flatten(1),
    "rows-clip": lambda y: F.hardtanh(y.flatten(1)),
    "rows-relu6-rows": lambda y: F.relu6(y[:, :, 0]).flatten(1),
    "rows-clip-clip": lambda y: F.relu(y.flatten(1)).clamp(max=3.0),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_logits_stay_float_through_clips_and_movements(end: Callable[[Tensor], Tensor]) -> None:
    student = placed(OneWide(end), Scheme(8, 8))
    layer = student.graph.output_node().all_input_nodes[0]
    while layer.op == "call_function":
        layer = layer.all_input_nodes[0]
    assert isinstance(student.get_submodule(str(layer.target)), QuantizedLayer)


def test_an_average_or_a_sum_behind_the_last_layer_is_quantized() -> None:
    """It is what the runtime computes in integers, so what enters it must be some."""
    student = placed(OneWide(lambda y: (y + F.relu(y)).flatten(1)), Scheme(8, 8))
    (total,) = (n for n in student.graph.nodes if n.target is torch.ops.aten.add.Tensor)
    assert all(is_quantizer(student, tensor) for tensor in total.all_input_nodes)
