"""Capture: what becomes a graph, and what is refused how."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import SHAPE, Residual, graph_of, images, targets, with_statistics
from torch import Tensor, nn

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError
from lrq_deploy.graph.capture import capture, example_input
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Wrapped(nn.Module):
    """A classifier whose result is packed by ``pack``."""

    def __init__(self, pack: object) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> object:
        logits = self.head(self.body(x).mean((2, 3)))
        return self.pack(logits)  # type: ignore[operator]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_computes_what_the_network_computes(batch: int) -> None:
    module = with_statistics(Residual())
    graph = capture(module, SHAPE)
    x = images(batch)
    torch.testing.assert_close(graph(x), module(x))
    assert not any(p.requires_grad for p in graph.parameters())


class Tokens(nn.Module):
    """Rows of patches behind one that ``repeat`` makes of a stored row and the images."""

    def __init__(self, repeat: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.head = nn.Linear(8, 5)
        self.repeat = repeat

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        rows = torch.cat([self.repeat(self.token, x), rows], 1)
        result: Tensor = self.head(rows[:, 0] + rows.mean(1))
        return result


REPEATS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda token, x: token.expand(x.shape[0], -1, -1),
    lambda token, x: token.expand(len(x), 1, 8),
    lambda token, x: token.repeat(x.shape[0], 1, 1),
    lambda token, x: token + torch.zeros(x.shape[0], 1, 8),
]


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("batch", [None, 1, 2, 4])
def test_a_class_token_is_repeated_for_any_batch(
    repeat: Callable[[Tensor, Tensor], Tensor], batch: int | None
) -> None:
    network = Tokens(repeat).eval()
    program = network if batch is None else torch.export.export(network, (images(batch),))
    graph = capture(program, SHAPE)
    for count in (1, 3):
        torch.testing.assert_close(graph(images(count)), network(images(count)))


def test_a_stored_tensor_may_have_any_name_where_the_batch_is_a_number() -> None:
    network = Tokens(REPEATS[1]).eval()
    network.code, network.token = network.token, None  # type: ignore[assignment]
    network.repeat = lambda _, x: network.code.expand(len(x), 1, 8)  # type: ignore[operator]
    graph = capture(network, SHAPE)
    torch.testing.assert_close(graph(images(3)), network(images(3)))


def test_forward_may_take_anything() -> None:
    class Passing(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.network(*args, **kwargs)

    for module in (with_statistics(Residual()), Tokens(REPEATS[1]).eval()):
        graph = capture(Passing(module), SHAPE)
        torch.testing.assert_close(graph(images(3)), module(images(3)))


@pytest.mark.parametrize("name", ["graph", "meta", "code", "layers", "input"])
def test_parts_may_have_any_name(name: str) -> None:
    module = with_statistics(Wrapped(lambda y: y))
    module.add_module(name, module.body)
    del module.body
    module.__dict__["body"] = getattr(module, name)
    graph = capture(module, SHAPE)
    assert any(name in path.split(".") for path in graph.state_dict())
    torch.testing.assert_close(graph(images(3)), module(images(3)))


@pytest.mark.parametrize(
    "pack", [lambda y: {"logits": y}, lambda y: (y,), lambda y: [y]], ids=["dict", "tuple", "list"]
)
def test_a_single_packed_output_is_unpacked(pack: object) -> None:
    module = with_statistics(Wrapped(pack))
    logits = capture(module, SHAPE)(images(3))
    assert logits.shape == (3, 5)


def test_the_images_may_be_the_first_of_any_arguments() -> None:
    network = torch.optim.swa_utils.AveragedModel(with_statistics(Residual())).eval()
    torch.testing.assert_close(capture(network, SHAPE)(images(3)), network(images(3)))


def test_a_network_without_input_is_refused() -> None:
    class NoInput(nn.Module):
        def forward(self) -> Tensor:
            return torch.zeros(1, 5)

    with pytest.raises(CaptureError, match="takes 1 positional argument"):
        capture(NoInput(), SHAPE)


def test_two_inputs_are_refused() -> None:
    class TwoInputs(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x + y).mean((2, 3))

    example = (example_input(SHAPE), example_input(SHAPE))
    program = torch.export.export(TwoInputs(), example)
    with pytest.raises(UnsupportedNetworkError, match=r"exactly one input.*2 inputs \(x, y\)"):
        capture(program, SHAPE)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda y: y[:, :, None, None].expand(-1, -1, 2, 2), r"\[N, classes\].*\(2, 5, 2, 2\)"),
        (lambda y: y[:, 0], r"at least 2 classes.*1 logit"),
        (lambda y: y[:, :1], r"at least 2 classes.*1 logit"),
        (lambda y: y.flatten()[:10].reshape(1, 10), r"logits \[N, classes\]"),
    ],
    ids=["map", "scalar", "one-class", "no-batch"],
)
def test_other_heads_are_refused(head: object, message: str) -> None:
    with pytest.raises(UnsupportedNetworkError, match=message):
        graph_of(Wrapped(head))


def test_a_wrong_input_shape_is_a_capture_error_that_names_the_place() -> None:
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] != 12:
                raise ValueError("wants 12 rows")
            return x.mean((2, 3))

    with pytest.raises(
        CaptureError, match=r"ValueError: wants 12 rows at .*test_graph_capture"
    ) as e:
        capture(Strict(), (3, 8, 8))
    assert e.value.remedy.startswith("check --input-shape")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_to_other_floats_is_named_with_its_remedy(dtype: torch.dtype) -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.body(x.to(dtype)).mean((2, 3))
            return result

    with pytest.raises(CaptureError, match=r"must run on a batch") as caught:
        capture(Casting(), SHAPE)
    assert __file__ in caught.value.received
    assert "read as float32: take autocast, .half()" in caught.value.remedy


def test_data_dependent_control_flow_is_a_capture_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return y if float(y.sum()) > 0 else -y

    with pytest.raises(CaptureError, match=r"capturable by torch\.export") as caught:
        capture(Branching(), SHAPE)
    assert f"at {__file__}:" in caught.value.received
    assert caught.value.remedy.startswith("edit the line that is named, or")


def test_a_branch_on_the_number_of_images_is_named_and_to_be_taken_out() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            return -y if x.shape[0] > 100 else y

    with pytest.raises(CaptureError, match="<= 100") as caught:
        capture(Branching(), SHAPE)
    assert "batches in the range 2 <= batch" in caught.value.received
    assert f"alone at {__file__}:" in caught.value.received
    assert "(return -y if x.shape[0] > 100 else y)" in caught.value.received
    assert caught.value.remedy.startswith("take what decides or computes by the number of images")


def test_an_operator_that_decides_by_the_number_of_images_is_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Prototypes(nn.Module):
        def __init__(self, mode: str) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.eye(4, 3))
            self.mode = mode

        def forward(self, x: Tensor) -> Tensor:
            return -torch.cdist(x.mean((2, 3)), self.rows, compute_mode=self.mode)

    with pytest.raises(CaptureError, match="batch <= 25") as caught:
        capture(Prototypes("use_mm_for_euclid_dist_if_necessary"), SHAPE)
    assert f"at {__file__}:" in caught.value.received
    assert "(return -torch.cdist(x.mean" in caught.value.received
    assert "size()" not in caught.value.received
    assert caught.value.remedy.startswith("pass compute_mode='use_mm_for_euclid_dist'")
    assert not capfd.readouterr().err
    chosen = Prototypes("use_mm_for_euclid_dist")
    torch.testing.assert_close(capture(chosen, SHAPE)(images(5)), chosen(images(5)))


def test_core_aten_archives_look_like_any_other_network() -> None:
    module = with_statistics(Residual())
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (example_input(SHAPE),), dynamic_shapes=({0: batch},))
    graph = capture(program.run_decompositions(), SHAPE)
    torch.testing.assert_close(graph(images()), module(images()))
    called = targets(graph)
    assert called.count(aten.conv2d.default) == 5
    assert called.count(aten.linear.default) == 1
    assert called.count(aten.batch_norm.default) == 5
    layers = [n.meta["layer"] for n in graph.graph.nodes if n.target is aten.conv2d.default]
    assert layers == ["stem.0", "first.0", "second.0", "down.0", "last.0"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=3),
        nn.ConvTranspose2d(3, 6, 3, 2, 1, output_padding=(1, 0), groups=3, dilation=(1, 2)),
    ],
)
def test_a_convolution_of_a_core_aten_archive_keeps_all_that_it_states(layer: nn.Module) -> None:
    values = layer(images(1)).numel()
    module = with_statistics(nn.Sequential(layer, nn.Flatten(), nn.Linear(values, 5)))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (example_input(SHAPE),), dynamic_shapes=({0: batch},))
    graph = capture(program.run_decompositions(), SHAPE)
    assert aten.convolution.default not in targets(graph)
    torch.testing.assert_close(graph(images()), module(images()))


def test_capture_leaves_the_training_flag_of_nothing_to_chance() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.9)
            self.head = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.drop(x.mean((2, 3))))
            return result

    module = Dropping().train()
    graph = capture(module, SHAPE)
    assert targets(graph) == [aten.mean.dim, aten.linear.default]
    torch.testing.assert_close(graph(images()), module.eval()(images()))


def test_make_teacher_describes_the_network() -> None:
    module = with_statistics(Residual(classes=7, channels=1))
    preprocessing = Preprocessing((0.0,), (1.0,))
    teacher = make_teacher(module, (1, 12, 10), preprocessing, "net", "ab" * 32)
    assert (teacher.num_classes, teacher.input_shape) == (7, (1, 12, 10))
    x = images(2, (1, 12, 10))
    torch.testing.assert_close(teacher.logits(x), module(x))


@pytest.mark.parametrize(
    "mix",
    [lambda y: y - y.mean(0, keepdim=True), torch.rand_like, lambda y: F.dropout(y, 0.5)],
    ids=["batch", "random", "dropout"],
)
def test_logits_that_depend_on_the_batch_or_on_chance_are_refused(mix: object) -> None:
    with pytest.raises(UnsupportedNetworkError, match=r"depend on the other images.*F\.dropout"):
        graph_of(Wrapped(mix))


def test_a_batch_that_is_tied_to_a_number_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    class PerImage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[n].mean((1, 2)) for n in range(len(x))])

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * len(x)

    class Stored(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * torch.tensor(float(len(x)))

    for network in (PerImage(), Counted(), Stored()):
        with pytest.raises(CaptureError, match=r"batch.*(specialized|constant|range)"):
            capture(network, SHAPE)
    with pytest.raises(CaptureError, match="shapes cannot be multiplied"):
        capture(nn.Sequential(nn.Flatten(), nn.Linear(7, 5)), SHAPE)
    assert "fake_tensor" not in capfd.readouterr().err
