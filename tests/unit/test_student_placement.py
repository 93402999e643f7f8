"""Placement: where quantizers stand, how wide they are, and that the float function stays."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    ALL,
    CENTRED,
    Dense,
    Mobile,
    Residual,
    Shuffle,
    conv_bn,
    graph_of,
    images,
    placed,
    quantizers,
    targets,
)
from torch import Tensor, fx, nn

from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.operators import WEIGHTED, is_call, is_movement, tensor_inputs
from lrq_deploy.graph.roles import Role, edge_layers, multiplies, quantized_tensors, sources_of
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.layers import ActQuantizer, QuantizedLayer, set_enabled
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.student.ranges import non_negative_nodes
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.unit

aten = torch.ops.aten


class Net(nn.Module):
    """Two convolutions with ``connect(first, second, head, x)`` between them."""

    def __init__(self, connect: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.second = conv_bn(3, 4), conv_bn(4, 4)
        self.head = nn.Linear(4, 5)
        self.connect = connect

    def forward(self, x: Tensor) -> Tensor:
        return self.connect(self.first, self.second, self.head, x)


def bits_before(student: fx.GraphModule, target: object) -> list[int]:
    """Widths of the quantizers that feed the first call of ``target``."""
    node = next(n for n in student.graph.nodes if n.target == target)
    found = []
    for tensor in tensor_inputs(node):
        for source in sources_of(tensor):
            module = student.get_submodule(str(source.target))
            assert isinstance(module, ActQuantizer)
            found.append(module.bits)
    return found


def layer_bits(student: fx.GraphModule) -> dict[str, int]:
    return {n: m.bits for n, m in student.named_modules() if isinstance(m, QuantizedLayer)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
def test_disabled_students_are_the_float_network(name: str, symmetry: str) -> None:
    folded = fold_batch_norm(graph_of(ALL[name]()))
    calls = targets(folded)
    student = place_quantizers(folded, Scheme(act_symmetry=symmetry), PORTABLE, CENTRED)  # type: ignore[arg-type]
    set_enabled(student, False)
    x = images()
    torch.testing.assert_close(student(x), folded(x), rtol=1e-5, atol=1e-6)
    assert targets(folded) == calls


@pytest.mark.parametrize("name", ALL)
def test_every_layer_reads_one_quantizer_through_movement(name: str) -> None:
    student = placed(ALL[name]())
    count = 0
    for node in student.graph.nodes:
        if node.op != "call_module":
            continue
        layer = student.get_submodule(str(node.target))
        if isinstance(layer, QuantizedLayer):
            assert {str(s.target) for s in sources_of(node.args[0])} == {layer.input_quantizer}
            assert node.args[1].target == f"{layer.input_quantizer}.log_scale"
            count += 1
    assert count == len(layer_bits(student)) > 0
    assert not [n for n, _ in student.named_parameters() if not n.startswith(("quant", "layers"))]


def test_both_inputs_of_a_residual_add_and_the_pooling_are_integers() -> None:
    student = placed(Residual(), Scheme(4, 4, 8, residual_bits=6))
    assert bits_before(student, aten.add.Tensor) == [6, 6]
    assert bits_before(student, aten.avg_pool2d.default) == [6]
    last = [n for n in student.graph.nodes if n.target is aten.add.Tensor][1]
    convolution, shortcut = last.args
    assert is_movement(shortcut)
    assert sources_of(shortcut)[0].op == sources_of(convolution)[0].op == "call_module"


def test_a_sum_with_the_image_leaves_it_8_bits() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = head(second(F.relu(first(x + x.flip(3)))).mean((2, 3)))
        return result

    student = placed(Net(connect), Scheme(4, 4, 8, residual_bits=4))
    assert next(iter(quantizers(student).values())).bits == 8


def test_layers_read_a_narrow_copy_of_what_an_addition_reads() -> None:
    student = placed(Residual(), Scheme(4, 4, 8, residual_bits=8))
    narrow = {name: q for name, q in quantizers(student).items() if name.endswith("_narrow")}
    assert narrow
    assert {q.bits for q in narrow.values()} == {4}
    for node in student.graph.nodes:
        if str(node.target).removeprefix("quantizers.") in narrow:
            wide = student.get_submodule(str(sources_of(node.all_input_nodes[0])[0].target))
            assert isinstance(wide, ActQuantizer)
            assert wide.bits == 8
            readers = [student.get_submodule(str(user.target)) for user in node.users]
            assert all(isinstance(reader, QuantizedLayer) for reader in readers)
    strict = placed(Residual(), Scheme(4, 4, 8, residual_bits=None))
    assert not [name for name in quantizers(strict) if name.endswith("_narrow")]


def test_rectifiers_are_the_lower_bound_of_unsigned_quantizers() -> None:
    student = placed(Residual())
    assert aten.relu.default not in targets(student)
    signs = {name: q.signed for name, q in quantizers(student).items()}
    kinds = {(name.split("_")[0], signed) for name, signed in signs.items()}
    assert kinds == {("input", True), ("conv2d", True), ("relu", False), ("avg", False)}


def test_edges_keep_their_width_and_same_means_same() -> None:
    assert list(layer_bits(placed(Residual(), Scheme(3, 4, 8))).values()) == [8, 3, 3, 3, 3, 8]
    same = placed(Residual(), Scheme(3, 4, None, residual_bits=None))
    assert set(layer_bits(same).values()) == {3}
    widths = [q.bits for q in quantizers(same).values()]
    assert widths[0] == 8
    assert set(widths[1:]) == {4}
    edge = placed(Residual(), Scheme(3, 4, 6))
    assert next(iter(quantizers(edge).values())).bits == 8
    assert list(quantizers(edge).values())[-1].bits == 6


def test_the_image_range_is_known_only_with_preprocessing() -> None:
    bounds = Preprocessing((0.5, 0.4, 0.5), (0.25, 0.2, 0.5))
    first = next(iter(quantizers(placed(Residual(), preprocessing=bounds)).values()))
    assert first.known_range == pytest.approx((-2.0, 3.0))
    assert first.signed
    unknown = Preprocessing((0.0,) * 3, (1.0,) * 3, known=False)
    first = next(iter(quantizers(placed(Residual(), preprocessing=unknown)).values()))
    assert first.known_range is None
    assert first.signed
    for low, signed in ((0.0, False), (0.5, True)):
        raw = Preprocessing((0.0, low, 0.0), (1.0,) * 3)
        first = next(iter(quantizers(placed(Residual(), preprocessing=raw)).values()))
        assert first.signed == signed


def test_curves_and_gates_keep_eight_bits() -> None:
    student = placed(Mobile(), Scheme(4, 4, 4))
    assert bits_before(student, aten.hardswish.default) == [8]
    assert bits_before(student, aten.hardsigmoid.default) == [8]
    value, gate = bits_before(student, aten.mul.Tensor)
    assert (value, gate) == (8, 8)
    assert bits_before(student, aten.mean.dim) == [8]
    assert aten.relu6.default in targets(student)
    assert aten.dropout.default not in targets(student)


def test_the_most_demanding_reader_decides_wherever_it_stands() -> None:
    """A curve reads what a layer multiplies: 4 bits, and no copy of 8."""

    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        x = first(x)
        y = second(x).mean((2, 3))
        result: Tensor = head(y + F.hardswish(x).mean((2, 3)))
        return result

    student = placed(Net(connect), Scheme(4, 4, 8))
    assert not [name for name in quantizers(student) if name.endswith("_narrow")]
    assert bits_before(student, "layers.second_0") == [4]


def test_a_result_that_a_rectifier_and_another_read_is_an_integer() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        x = first(x)
        y = second(F.relu(x))
        result: Tensor = head((F.relu(y) + torch.sin(x)).mean((2, 3)))
        return result

    assert "conv2d" in quantizers(placed(Net(connect), Scheme(4, 4, 8)))


def test_a_square_is_a_product_of_two() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(first(x))
        result: Tensor = head(second(x * x).mean((2, 3)))
        return result

    student = placed(Net(connect), Scheme(4, 4, 8, residual_bits=6))
    assert bits_before(student, aten.mul.Tensor) == [6]


def test_concatenated_tensors_share_one_quantizer() -> None:
    student = placed(Dense())
    concat = next(n for n in student.graph.nodes if n.target is aten.cat.default)
    assert len({str(s.target) for s in sources_of(concat)}) == 1
    assert len(sources_of(concat)) == 2


def test_split_and_shuffled_channels_share_one_quantizer() -> None:
    student = placed(Shuffle())
    mean = next(n for n in student.graph.nodes if n.target is aten.mean.dim)
    assert len({str(s.target) for s in sources_of(mean.args[0])}) == 1
    assert aten.max_pool2d.default in targets(student)


def test_a_rectifier_inside_a_signed_group_stays() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(first(x))[:, :2], second(F.relu(first(x)))[:, :2]], 1)
        result: Tensor = head(x.mean((2, 3)))
        return result

    student = placed(Net(connect))
    assert targets(student).count(aten.relu.default) >= 1
    set_enabled(student, False)
    folded = fold_batch_norm(graph_of(Net(connect)))
    torch.testing.assert_close(student(images()), folded(images()), rtol=1e-5, atol=1e-6)


def test_addition_of_a_constant_is_no_integer_operator() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = head(second(F.relu(first(x)) * 0.5 + 1).mean((2, 3)))
        return result

    student = placed(Net(connect))
    names = list(quantizers(student))
    assert any(n.startswith("add") for n in names)
    assert not any(n.startswith("mul") for n in names)


def test_values_picked_from_a_reduction_get_their_own_quantizer() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = head(second(F.relu(first(x))).flatten(2).median(2)[0])
        return result

    student = placed(Net(connect))
    assert any(n.startswith("getitem") for n in quantizers(student))
    student(images())


def test_tied_weights_become_layers_of_their_own() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = head(second(F.relu(second(F.relu(first(x))))).mean((2, 3)))
        return result

    assert list(layer_bits(placed(Net(connect)))) == [
        "layers.first_0",
        "layers.second_0",
        "layers.second_0_again",
        "layers.head",
    ]


def test_logits_are_float() -> None:
    student = placed(Residual())
    last = student.graph.output_node().args[0]
    assert isinstance(student.get_submodule(str(last.target)), QuantizedLayer)  # type: ignore[union-attr]


def test_non_negativity_follows_the_operators() -> None:
    def connect(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        positive = F.pad(F.relu(first(x)), (1, 1))
        lifted = F.pad(positive, (1, 1), value=-1.0)
        summed = positive + torch.sigmoid(positive) * 2
        lowered = (summed - 1).mean((2, 3)) + lifted.mean((2, 3))
        result: Tensor = head(summed.mean((2, 3))) + head(lowered)
        return result

    graph = graph_of(Net(connect)).graph
    positive = non_negative_nodes(graph, input_is_non_negative=False)
    names = {n.name.partition("_")[0] for n in positive}
    assert {"relu", "sigmoid", "add", "mul"} <= names
    assert not names & {"sub", "conv2d", "linear", "input"}
    assert sum(n.target is aten.mean.dim for n in positive) == 1
    assert "input" in {n.name for n in non_negative_nodes(graph, input_is_non_negative=True)}


def test_edges_of_branches() -> None:
    first, last = edge_layers(fold_batch_norm(graph_of(Shuffle())).graph)
    assert [n.meta["layer"] for n in first] == ["stem.0"]
    assert [n.meta["layer"] for n in last] == ["head"]
    roles = [g.role for g in quantized_tensors(fold_batch_norm(graph_of(Residual())).graph)]
    assert roles[0] is Role.IMAGE
    assert roles[-1] is Role.EDGE


def test_a_pooling_behind_the_last_layer_has_the_residual_width() -> None:
    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = conv_bn(3, 4), conv_bn(4, 4)
            self.last = nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.last(F.relu(self.inner(F.relu(self.stem(x)))))).mean((2, 3))

    student = placed(Convolutional(), Scheme(3, 3, 7))
    assert [q.bits for q in quantizers(student).values()] == [8, 3, 7, 8]
    assert list(layer_bits(student).values()) == [7, 3, 7]


def test_integers_and_truth_values_have_no_quantizer() -> None:
    def counted(first: nn.Module, second: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(first(x))
        levels = x.to(torch.int32)
        kept = x * (levels + levels) * (x > 0)
        result: Tensor = head(F.relu(second(kept)).mean((2, 3)))
        return result

    student = placed(Net(counted), Scheme(4, 4, 8))
    read = [n.all_input_nodes[0] for n in student.graph.nodes if n.op == "call_module"]
    dtypes = {node.meta["val"].dtype for node in read if "val" in node.meta}
    assert dtypes == {torch.float32}
    assert "_to_copy" not in quantizers(student)


class Preactivated(nn.Module):
    """BatchNorms that no convolution can take: on the image, behind a sum and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (3, 4, 8))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.norms[0](x))
        x = x + self.inner(F.relu(self.norms[1](x)))
        x = F.relu(self.norms[2](torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


def test_what_is_left_of_a_batch_norm_is_no_layer_of_few_bits() -> None:
    student = placed(Preactivated(), Scheme(3, 3, 7, residual_bits=6))
    bits = layer_bits(student)
    gains = [name for name in bits if "norms" in name]
    assert len(gains) == 3
    assert {bits[name] for name in gains} == {8}
    # The convolution behind the one on the image is the first layer.
    assert (bits["layers.stem"], bits["layers.inner"], bits["layers.head"]) == (7, 3, 7)
    read = [set(bits_before(student, name)) for name in (*gains, "layers.stem", "layers.inner")]
    assert read == [{8}, {6}, {6}, {7}, {3}]


@pytest.mark.parametrize(
    ("convolution", "gain"),
    [
        (nn.Conv2d(4, 4, 1, groups=4), True),
        (nn.Conv2d(4, 4, 1, groups=2), False),
        (nn.Conv2d(4, 8, 1, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), False),
        (nn.Conv2d(4, 4, 1), False),
        (nn.ConvTranspose2d(4, 4, 1, groups=4), False),
    ],
)
def test_one_weight_per_channel_is_a_gain(convolution: nn.Module, gain: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), convolution, nn.Flatten())
    graph = graph_of(network).graph
    layers = [node for node in graph.nodes if is_call(node, WEIGHTED)]
    assert [multiplies(node) for node in layers] == [True, not gain]
