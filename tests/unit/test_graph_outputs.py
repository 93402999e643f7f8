"""The logits among what a network returns: the rule, the choice, the refusals."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small_networks import SHAPE, conv_bn, images, with_statistics
from torch import Tensor, fx, nn

from lrq_deploy.errors import OptionError, UnsupportedNetworkError
from lrq_deploy.graph.capture import capture
from lrq_deploy.task import Task

pytestmark = pytest.mark.unit

Pair = namedtuple("Pair", ["logits", "aux"])


class Packed(nn.Module):
    """Logits of 5 classes, an auxiliary head of 4 and a map, packed by ``pack``."""

    def __init__(self, pack: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.auxiliary = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.stem(x))
        pooled = x.mean((2, 3))
        return self.pack(self.head(pooled), self.auxiliary(pooled), x)


PACKS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "named": lambda y, a, x: {"aux": a, "logits": y},
    "namedtuple": lambda y, a, x: Pair(y, a),
    "with-a-map": lambda y, a, x: (x, y),
    "with-a-number": lambda y, a, x: {"out": y, "loss": None, "scale": 2},
    "nested": lambda y, a, x: [{"maps": [x]}, {"deep": y}],
}


def _classes(pack: Callable[..., Any], output: str | None = None) -> int:
    module = with_statistics(Packed(pack))
    graph = capture(module, SHAPE, output)
    x = images(3)
    classes = int(graph(x).shape[1])
    expected = module.head if classes == 5 else module.auxiliary
    pooled = torch.relu(module.stem(x)).mean((2, 3))
    torch.testing.assert_close(graph(x), expected(pooled))
    return classes


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_the_rule_finds_the_main_output(pack: Callable[..., Any]) -> None:
    assert _classes(pack) == 5


@pytest.mark.parametrize(
    ("pack", "output", "classes"),
    [
        (lambda y, a, x: {"main": y, "aux": a}, "main", 5),
        (lambda y, a, x: {"main": y, "aux": a}, "aux", 4),
        (lambda y, a, x: {"main": y, "aux": a}, "1", 4),
        (lambda y, a, x: {1: y, 0: a}, "1", 5),
        (lambda y, a, x: (a, y), "1", 5),
        (lambda y, a, x: [a, [x, y]], "1.1", 5),
        (lambda y, a, x: Pair(y, a), "aux", 4),
        (lambda y, a, x: y, "0", 5),
    ],
)
def test_output_picks_by_key_path_or_number(
    pack: Callable[..., Any], output: str, classes: int
) -> None:
    assert _classes(pack, output) == classes


def test_heads_that_are_not_told_apart_are_listed() -> None:
    with pytest.raises(UnsupportedNetworkError) as caught:
        _classes(lambda y, a, x: {"main": y, "aux": a, "maps": x})
    assert caught.value.received == "3 outputs: main [N, 5], aux [N, 4], maps [N, 4, 12, 12]"
    assert caught.value.remedy.endswith("--output main")


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(OptionError, match=r"'logit'; there is main \[N, 5\], aux \[N, 4\]"):
        _classes(lambda y, a, x: {"main": y, "aux": a}, "logit")
    with pytest.raises(OptionError, match="'2'"):
        _classes(lambda y, a, x: (y, a), "2")


def test_a_segmentation_head_is_refused_with_what_it_returns() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"out \[N, 4, 12, 12\].*segmentation"):
        _classes(lambda y, a, x: {"out": x, "aux": x + 1})


def test_only_a_table_can_be_the_logits() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"logits \[N, classes\]"):
        _classes(lambda y, a, x: (y, x), "1")


def test_a_result_without_a_tensor_is_refused() -> None:
    with pytest.raises(UnsupportedNetworkError, match="no tensor"):
        _classes(lambda y, a, x: {"count": 3, "more": None})


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
        return (x * mask * scale).mean((2, 3))


def test_a_module_with_two_inputs_is_refused_by_their_names() -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"2 inputs \(x, mask\)"):
        capture(Masked(), SHAPE)


PROBABILITIES: dict[str, tuple[Callable[..., Any], Task]] = {
    "softmax": (lambda y, a, x: y.softmax(1), "multiclass"),
    "log-softmax": (lambda y, a, x: {"logits": y.log_softmax(-1), "map": x}, "multiclass"),
    "sigmoid": (lambda y, a, x: y.sigmoid(), "multilabel"),
}


@pytest.mark.parametrize(("pack", "task"), PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_are_taken_off(pack: Callable[..., Any], task: Task) -> None:
    graph = capture(with_statistics(Packed(pack)), SHAPE, task=task)
    plain = capture(with_statistics(Packed(lambda y, a, x: y)), SHAPE)
    torch.testing.assert_close(graph(images()), plain(images()))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_what_ends_the_network_must_fit_the_task(name: str) -> None:
    pack, right = PROBABILITIES[name]
    wrong: Task = "multilabel" if right == "multiclass" else "multiclass"
    with pytest.raises(UnsupportedNetworkError, match=f"{name} with --task {wrong}") as caught:
        capture(with_statistics(Packed(pack)), SHAPE, task=wrong)
    assert caught.value.remedy.endswith(right)


class OneWide(nn.Module):
    """Ends in a convolution over one place and whatever makes rows of its 6 results."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = conv_bn(3, 4)
        self.head = nn.Conv2d(4, 6, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(torch.relu(self.stem(x)).mean((2, 3), keepdim=True)))


MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax-flatten": lambda y: y.softmax(1).flatten(1),
    "softmax-view": lambda y: y.softmax(1).view(y.shape[0], 6),
    "softmax-view-of-its-shape": lambda y: (p := y.softmax(1)).view(p.shape[0], p.shape[1]),
    "softmax-select": lambda y: y.softmax(1)[:, :, 0, 0],
    "softmax-squeeze": lambda y: y.softmax(-3).squeeze(-1).squeeze(-1),
    "softmax-squeeze-all": lambda y: y.softmax(1).squeeze(),
    "softmax-clone": lambda y: y.softmax(1).contiguous().clone().flatten(1),
    "softmax-of-the-last-axis": lambda y: y.permute(0, 2, 3, 1).softmax(-1)[:, 0, 0],
    "softmax-there-and-back": lambda y: (
        y.flatten(2).transpose(1, 2).softmax(-1).transpose(1, 2)[..., 0]
    ),
    "softmax-clamp": lambda y: y.flatten(1).softmax(1).clamp(min=1e-7),
    "softmax-float64": lambda y: y.softmax(1, dtype=torch.float64).flatten(1),
    "log-softmax-flatten": lambda y: y.log_softmax(1).flatten(1),
    "sigmoid-flatten": lambda y: y.sigmoid().flatten(1),
    "sigmoid-clamp": lambda y: y.flatten(1).sigmoid().clamp(1e-6, 1 - 1e-6),
    "sigmoid-clamp-flatten": lambda y: torch.clip(y.sigmoid(), 1e-6, 1 - 1e-6).flatten(1),
    "sigmoid-within-0-and-1": lambda y: y.sigmoid().clamp(0, 1).flatten(1).relu(),
}


def _one_wide(name: str, task: Task) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The network that ends as ``MOVED`` says, and the same with nothing but its movements."""
    network = with_statistics(OneWide(MOVED[name]))
    plain = with_statistics(OneWide(lambda y: y.flatten(1)))
    return capture(network, SHAPE, task=task), capture(plain, SHAPE)


@pytest.mark.parametrize("name", MOVED)
def test_probabilities_are_taken_off_below_movements_and_clamps(name: str) -> None:
    task: Task = "multilabel" if name.startswith("sigmoid") else "multiclass"
    graph, plain = _one_wide(name, task)
    torch.testing.assert_close(graph(images()), plain(images()))
    assert not {"sigmoid", "clamp", "softmax", "log_softmax"} & set(_operators(graph))


@pytest.mark.parametrize("name", MOVED)
def test_movements_and_clamps_hide_no_contradiction(name: str) -> None:
    right: Task = "multilabel" if name.startswith("sigmoid") else "multiclass"
    wrong: Task = "multilabel" if right == "multiclass" else "multiclass"
    with pytest.raises(UnsupportedNetworkError, match=f"with --task {wrong}") as caught:
        _one_wide(name, wrong)
    assert caught.value.remedy.endswith(right)


def test_labels_may_be_picked_from_the_results_of_a_sigmoid() -> None:
    picked = capture(
        with_statistics(OneWide(lambda y: y.sigmoid()[:, 1:4, 0, 0])), SHAPE, task="multilabel"
    )
    plain = capture(with_statistics(OneWide(lambda y: y[:, 1:4, 0, 0])), SHAPE)
    torch.testing.assert_close(picked(images()), plain(images()))


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "of-pairs": lambda y: y.view(-1, 2, 3).softmax(1).flatten(1),
    "yes-of-pairs": lambda y: y.view(-1, 2, 3).softmax(1)[:, 1],
    "of-more-classes": lambda y: y.softmax(1)[:, :4, 0, 0],
    "of-one": lambda y: y.softmax(2).flatten(1),
    "logarithm-behind-a-clamp": lambda y: y.log_softmax(1).clamp(min=-20.0).flatten(1),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_softmax_over_anything_but_the_classes_stays(name: str) -> None:
    network = with_statistics(OneWide(KEPT[name]))
    graph = capture(network, SHAPE)
    torch.testing.assert_close(graph(images()), network(images()))
    assert {"softmax", "log_softmax"} & set(_operators(graph))


def test_pairs_of_yes_and_no_are_not_logits_of_labels() -> None:
    with pytest.raises(UnsupportedNetworkError, match="softmax with --task multilabel"):
        capture(with_statistics(OneWide(KEPT["yes-of-pairs"])), SHAPE, task="multilabel")


def test_a_softmax_over_the_batch_is_refused() -> None:
    network = with_statistics(OneWide(lambda y: y.flatten(1).softmax(0)))
    with pytest.raises(UnsupportedNetworkError, match="depend on the other images"):
        capture(network, SHAPE)


@pytest.mark.parametrize("limits", [(0.6, 1.0), (0.0, 0.4)])
def test_a_clamp_that_decides_stays(limits: tuple[float, float]) -> None:
    network = with_statistics(OneWide(lambda y: y.flatten(1).sigmoid().clamp(*limits)))
    torch.testing.assert_close(
        capture(network, SHAPE, task="multilabel")(images()), network(images())
    )


def _operators(graph: fx.GraphModule) -> list[str]:
    return [str(node.target).split(".")[1] for node in graph.graph.nodes if "." in str(node.target)]


def test_a_single_logit_is_one_label() -> None:
    module = with_statistics(Packed(lambda y, a, x: y[:, :1]))
    assert capture(module, SHAPE, task="multilabel")(images(3)).shape == (3, 1)
    with pytest.raises(UnsupportedNetworkError, match=r"1 logit.*--task multilabel"):
        capture(module, SHAPE)
