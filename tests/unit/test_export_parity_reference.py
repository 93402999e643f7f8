"""The integer reference against torch: layers, operators, whole graphs."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.both_kinds import as_double, as_numpy
from support.frozen_graphs import FrozenGraphBuilder, mobile_student, residual_student
from torch import Tensor

from lrq_deploy.export.parity.reference import (
    Reference,
    UnknownOperatorError,
    call_labels,
    integer_convolution,
    reference_logits,
)
from lrq_deploy.export.parity.reference_movements import MOVEMENTS
from lrq_deploy.export.parity.reference_operators import FLOAT_OPERATORS
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.graph import operators
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit

aten = torch.ops.aten
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def integers(shape: tuple[int, ...], seed: int, high: int = 127) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high + 1, shape, generator=generator)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["conv2d", "conv_transpose2d"]),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
    groups=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_convolutions_are_those_of_torch(
    kind: Any,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    seed: int,
) -> None:
    transposed = kind == "conv_transpose2d"
    extra = (stride[0] - 1, 0) if transposed else (0, 0)
    padding = (kernel[0] // 2, seed % kernel[1])
    spec = LayerSpec(kind, stride, padding, dilation, extra, groups)
    x = integers((2, 2 * groups, 9, 8), seed)
    shape = (2 * groups, 3, *kernel) if transposed else (3 * groups, 2, *kernel)
    weight = integers(shape, seed + 1)
    expected = spec.apply(x.double(), weight.double(), None)
    found = integer_convolution(x.numpy(), weight.numpy(), spec)
    assert found.dtype == np.int32
    assert torch.equal(torch.from_numpy(found).double(), expected)


def test_sums_that_leave_32_bits_are_64_bits_wide() -> None:
    x = np.full((1, 4, 1, 1), 2**30, np.int64)
    found = integer_convolution(x, np.full((1, 4, 1, 1), 2, np.int64), LayerSpec("conv2d"))
    assert found.dtype == np.int64
    assert int(found[0, 0, 0, 0]) == 2**33


def test_every_operator_with_a_role_has_a_kernel() -> None:
    """Without one a student loses the rung that its verdict rests on."""
    roles = (operators.MOVEMENTS, operators.SUMS, operators.AVERAGES, operators.RECTIFIERS)
    known = {str(each) for each in set().union(*roles, operators.ACTIVATIONS)}
    assert known - {*MOVEMENTS, *FLOAT_OPERATORS} == set()


IMAGE = (2, 4, 6, 7)
MOVING: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.slice.Tensor, (2, 1, 2**63 - 1, 2)),
    (aten.select.int, (1, -1)),
    (aten.view.default, ([-1, 42],)),
    (aten.flatten.using_ints, (1, -1)),
    (aten.flatten.using_ints, (2,)),
    (aten.permute.default, ([0, 2, 3, 1],)),
    (aten.transpose.int, (1, 3)),
    (aten.unsqueeze.default, (-1,)),
    (aten.unflatten.int, (1, [2, 2])),
    (aten.split.Tensor, (3, 1)),
    (aten.split_with_sizes.default, ([1, 3], 1)),
    (aten.chunk.default, (3, 3)),
    (aten.unbind.int, (1,)),
    (aten.max_pool2d.default, ([3, 2], [2, 2], [1, 1], [1, 2])),
    (aten.max_pool2d.default, ([3, 3], [2, 2], [0, 0], [1, 1], True)),
    (aten.max_pool2d.default, ([2, 2], [3, 3], [1, 1], [1, 1], True)),
    (aten.max_pool2d.default, ([2],)),
    (aten.amax.default, ([-1, -2], True)),
    (aten.pad.default, ([1, 2, 0, 1],)),
    (aten.pad.default, ([2, 1, 1, 3], "reflect")),
    (aten.constant_pad_nd.default, ([0, 1, -1, 2, 1, 1],)),
    (aten.reflection_pad2d.default, ([2, 1, 1, 3],)),
    (aten.replication_pad2d.default, ([2, 1, 1, 3],)),
    (aten.pixel_shuffle.default, (2,)),
    (aten.channel_shuffle.default, (2,)),
    (aten.upsample_nearest2d.vec, (None, [2.0, 1.5])),
    (aten.upsample_nearest2d.vec, ([9, 5], None)),
    (aten.upsample_nearest2d.default, ([9, 5],)),
    (aten.expand.default, ([3, -1, -1, -1, -1],)),
    (aten.repeat.default, ([2, 1, 1, 3],)),
    (aten.repeat.default, ([3, 1, 1, 2, 1],)),
    (aten.repeat_interleave.self_int, (3, 1)),
    (aten.unfold.default, (-2, 3, 2)),
    (aten.flip.default, ([1, -1],)),
]


@pytest.mark.parametrize(("operator", "args"), MOVING, ids=lambda v: str(v))
def test_movements_keep_integers(operator: Any, args: tuple[Any, ...]) -> None:
    x = integers(IMAGE, 1)
    expected = operator(x.double(), *args)
    found = MOVEMENTS[str(operator)](x.numpy(), *args)
    if isinstance(expected, Tensor):
        expected, found = [expected], [found]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.int64
        assert torch.equal(torch.from_numpy(np.ascontiguousarray(ours)).double(), theirs)


@pytest.mark.parametrize("axes", [(), (2,), ([0, 2],)])
def test_squeeze(axes: tuple[Any, ...]) -> None:
    x = integers((1, 3, 1, 2), 0)
    name = ("default", "dim", "dims")[0 if not axes else 1 + isinstance(axes[0], list)]
    operator = getattr(aten.squeeze, name)
    assert MOVEMENTS[str(operator)](x.numpy(), *axes).shape == operator(x, *axes).shape


def test_pixel_unshuffle_undoes_pixel_shuffle() -> None:
    x = integers((2, 8, 3, 2), 4).numpy()
    wide = MOVEMENTS["aten.pixel_shuffle.default"](x, 2)
    assert (MOVEMENTS["aten.pixel_unshuffle.default"](wide, 2) == x).all()


def test_adaptive_maximum_and_index_select() -> None:
    x = integers(IMAGE, 2)
    expected = torch.nn.functional.adaptive_max_pool2d(x.double(), (4, 3))
    found = MOVEMENTS["aten.adaptive_max_pool2d.default"](x.numpy(), [4, 3])[0]
    assert torch.equal(torch.from_numpy(found).double(), expected)
    picked = MOVEMENTS["aten.index_select.default"](x.numpy(), 1, np.array([2, 0]))
    assert torch.equal(torch.from_numpy(picked), x[:, [2, 0]])


def test_the_maximum_of_core_aten_is_the_first_of_two_results() -> None:
    x, operator = integers(IMAGE, 2), aten.max_pool2d_with_indices.default
    (found,) = MOVEMENTS[str(operator)](x.numpy(), [3, 3], [2, 2])
    assert torch.equal(torch.from_numpy(found).double(), operator(x.double(), [3, 3], [2, 2])[0])


@pytest.mark.parametrize("name", ["eq", "ge", "gt", "le", "lt", "ne"])
def test_comparisons_choose(name: str) -> None:
    x, y = integers(IMAGE, 3, 2).double(), integers(IMAGE, 4, 2).double()
    for form, other in (("Scalar", 1), ("Tensor", y)):
        operator = getattr(getattr(aten, name), form)
        chosen = FLOAT_OPERATORS[str(operator)](x.numpy(), as_numpy(other))
        mask = operator(x, other)
        assert torch.equal(torch.from_numpy(chosen), mask)
        rows = torch.from_numpy(FLOAT_OPERATORS["aten.any.dim"](chosen, -1, True))
        assert torch.equal(rows, mask.any(-1, True))
        found = FLOAT_OPERATORS["aten.where.self"](chosen, x.numpy(), y.numpy())
        assert torch.equal(torch.from_numpy(found), torch.where(mask, x, y))


@pytest.mark.parametrize("name", ["log", "log1p"])
def test_logarithms(name: str) -> None:
    x, operator = torch.linspace(0.1, 9, 7).double(), getattr(aten, name).default
    found = torch.from_numpy(FLOAT_OPERATORS[str(operator)](x.numpy()))
    torch.testing.assert_close(found, operator(x))


MAKING: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.adaptive_avg_pool2d.default, ([1, 1],), {}),
    (aten.adaptive_avg_pool2d.default, ([4, 3],), {}),
    (aten.avg_pool2d.default, ([2, 2], [2, 2]), {}),
    (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], False, False), {}),
    (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], True), {}),
    (aten.avg_pool2d.default, ([2, 2], [3, 3], [1, 1], True, False), {}),
    (aten.avg_pool2d.default, ([3, 3], [1, 1], [1, 1], False, True, 5), {}),
    (aten.avg_pool2d.default, ([2, 2], [1, 1], [1, 1]), {}),  # larger than its input
    (aten.avg_pool2d.default, ([2, 4], [1, 3], [1, 2], False, False), {}),
    (aten.avg_pool2d.default, ([4, 2], [3, 1], [2, 1], True, True, 3), {}),
    (aten.cumsum.default, (2,), {}),
    (aten.mean.dim, ([2, 3], True), {}),
    (aten.mean.dim, ([-1],), {}),
    (aten.clamp.default, (-0.5, None), {}),
    (aten.hardtanh.default, (), {}),
    (aten.leaky_relu.default, (0.2,), {}),
    (aten.elu.default, (0.7,), {}),
    (aten.celu.default, (0.7,), {}),
    (aten.div.Scalar, (3,), {}),
    (aten.sub.Scalar, (3, 2), {}),
    (aten.gelu.default, (), {}),
    (aten.gelu.default, (), {"approximate": "tanh"}),
    (aten.softplus.default, (2.0, 3.0), {}),
    (aten.add.Tensor, (0.5,), {"alpha": 3}),
    (aten.addcmul.default, (torch.linspace(-1, 2, 7), torch.linspace(3, 0, 7)), {"value": 3}),
    *(
        (getattr(aten, name).default, (), {})
        for name in (
            "abs",
            "erf",
            "expm1",
            "reciprocal",
            "selu",
            "sign",
            "square",
            "cos",
            "exp",
            "hardsigmoid",
            "hardswish",
            "mish",
            "neg",
            "relu",
            "relu6",
            "sigmoid",
            "silu",
            "sin",
            "tanh",
        )
    ),
]


@pytest.mark.parametrize(("operator", "args", "kwargs"), MAKING, ids=lambda v: str(v))
def test_operators_on_reals(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    x = 3 * torch.randn(IMAGE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = FLOAT_OPERATORS[str(operator)](x.numpy(), *map(as_numpy, args), **kwargs)
    expected = operator(x, *map(as_double, args), **kwargs)
    torch.testing.assert_close(torch.from_numpy(found), expected)


@pytest.mark.parametrize(
    "args", [([3],), ([3], [2]), ([2], [1], [1]), ([3], [2], [1], True, False)]
)
def test_average_of_rows(args: tuple[Any, ...]) -> None:
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = FLOAT_OPERATORS["aten.avg_pool1d.default"](x.numpy(), *args)
    torch.testing.assert_close(torch.from_numpy(found), aten.avg_pool1d.default(x, *args))


def test_places_of_a_mask_become_reals() -> None:
    """As EdgeNeXt counts the places of its maps."""
    size = [2, 3]
    hidden = aten.zeros.default(size, dtype=torch.bool)
    theirs: Tensor = aten._to_copy.default(
        aten.cumsum.default(aten.bitwise_not.default(hidden), 1, dtype=torch.float32),
        dtype=torch.float32,
    )
    zeros, seen, count, cast, copy = (
        FLOAT_OPERATORS[f"aten.{name}.default"]
        for name in ("zeros", "bitwise_not", "cumsum", "_to_copy", "copy")
    )
    ours = cast(
        count(seen(zeros(size, dtype=torch.bool, device="cpu")), 1, dtype=torch.float32),
        dtype=torch.float32,
    )
    assert ours.dtype == np.float64
    assert ours.tolist() == theirs.tolist() == [[1, 2, 3]] * 2
    assert copy(zeros(size), ours[0]).tolist() == theirs.tolist()


def test_windows_that_a_shift_parts_are_masked() -> None:
    """As torchvision's Swin numbers regions and hides what lies in others."""
    x = torch.arange(12.0).reshape(3, 4)
    theirs = aten.slice_scatter.default(x.new_zeros([3, 4]), aten.fill.Scalar(x[1:], 2), 0, 1, 3)
    theirs = aten.masked_fill.Scalar(theirs, aten.ne.Scalar(theirs, 0), -100.0)
    theirs = aten.masked_fill.Scalar(theirs, aten.eq.Scalar(theirs, 0), 7.0)
    operators = {name.split(".")[1]: kernel for name, kernel in FLOAT_OPERATORS.items()}
    zeros = operators["new_zeros"](x.numpy(), [3, 4], pin_memory=False)
    ours = operators["slice_scatter"](zeros, operators["fill"](x.numpy()[1:], 2), 0, 1, 3)
    ours = operators["masked_fill"](ours, operators["ne"](ours, 0), -100.0)
    ours = operators["masked_fill"](ours, operators["eq"](ours, 0), 7.0)
    assert not zeros.any()
    assert ours.tolist() == theirs.tolist()


def test_inverse_root() -> None:
    x = 1 + torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    root = FLOAT_OPERATORS["aten.rsqrt.default"](x.numpy())
    torch.testing.assert_close(torch.from_numpy(root), x.rsqrt())


@st.composite
def students(draw: st.DrawFn) -> QuantizedModel:
    """A chain of random layers, residual additions, pools and movements."""
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    b = FrozenGraphBuilder(torch.randn(4, 3, 9, 8, generator=generator), seed)
    x = b.quantize(b.input, 8)
    for _ in range(draw(st.integers(1, 4))):
        bits = draw(st.sampled_from([2, 4, 8]))
        channels = x.data.shape[1]
        step = draw(st.sampled_from(["layer", "depthwise", "add", "pool", "pad", "curve", "cat"]))
        if step == "layer":
            stride = draw(st.sampled_from([(1, 1), (2, 1)]))
            spec = LayerSpec("conv2d", stride=stride, padding=(1, 1))
            x = b.quantize(b.layer(x, 4, bits=bits, spec=spec, bias=draw(st.booleans())), bits)
        elif step == "depthwise":
            spec = LayerSpec("conv2d", padding=(2, 2), dilation=(2, 2), groups=channels)
            y = b.call(aten.relu.default, b.layer(x, channels, bits=bits, spec=spec))
            x = b.quantize(y, bits)
        elif step == "add":
            y = b.quantize(b.layer(x, channels, bits=bits), bits, draw(st.booleans()))
            x = b.quantize(b.call(aten.add.Tensor, y, x), bits)
        elif step == "pool":
            x = b.call(aten.max_pool2d.default, x, [3, 3], [1, 1], [1, 1])
        elif step == "pad":
            x = b.call(aten.constant_pad_nd.default, x, [0, 1, 1, 0])
        elif step == "curve":
            x = b.quantize(b.call(aten.hardswish.default, x), 8, True)
        else:
            x = b.call(aten.cat.default, [x, b.call(aten.slice.Tensor, x, 1, 0, 2)], 1)
    x = b.quantize(b.call(aten.mean.dim, x, [2, 3]), 8)
    return b.finish(b.layer(x, 5, spec=LayerSpec("linear")))


@settings(max_examples=40)
@given(students())
def test_random_graphs_are_the_exact_student(model: QuantizedModel) -> None:
    images = torch.randn(3, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    found = torch.from_numpy(reference_logits(model, images))
    torch.testing.assert_close(found, exact_logits(model, images), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fill", [0, 2, 0.3])
def test_a_border_of_another_number_lies_on_no_grid(fill: float) -> None:
    b = FrozenGraphBuilder(images := torch.randn(4, 3, 5, 5))
    x = b.call(aten.constant_pad_nd.default, b.quantize(b.input, 8), [1, 1, 1, 1], fill)
    pooled = b.quantize(b.call(aten.mean.dim, x, [2, 3]), 8)
    model = b.finish(b.layer(pooled, 5, spec=LayerSpec("linear")))
    found = torch.from_numpy(reference_logits(model, images))
    torch.testing.assert_close(found, exact_logits(model, images), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "model",
    [residual_student(8, 8), residual_student(asymmetric=True), mobile_student(float_curves=True)],
    ids=["residual", "asymmetric", "mobile"],
)
def test_the_reference_is_the_student(model: QuantizedModel) -> None:
    images = torch.randn(6, *model.input_shape, generator=torch.Generator().manual_seed(9))
    found = torch.from_numpy(reference_logits(model, images))
    assert torch.equal(found, exact_logits(model, images))
    torch.testing.assert_close(found, model.logits(images), rtol=1e-4, atol=1e-4)


def test_every_quantizer_call_leaves_its_integers() -> None:
    model = residual_student(4, 4)
    reference = Reference(model)
    reference.run(np.zeros((1, *model.input_shape), np.float32))
    assert list(reference.trace) == list(call_labels(model).values())
    for name, integers_of in reference.trace.items():
        qparams = model.table[name]
        assert qparams.qmin <= integers_of.min() <= integers_of.max() <= qparams.qmax


def test_a_shared_quantizer_has_a_label_per_call() -> None:
    b = FrozenGraphBuilder(torch.randn(2, 3, 4, 4))
    x = b.quantize(b.input, 8)
    y = b.quantize(b.layer(x, 3), 8)
    again = b.reuse(y, b.layer(y, 3))
    model = b.finish(b.call(aten.mean.dim, again, [2, 3]))
    assert list(call_labels(model).values()) == [x.source, y.source, f"{y.source}.1"]


def test_an_unknown_operator_is_named() -> None:
    b = FrozenGraphBuilder(torch.randn(2, 3, 4, 4))
    x = b.call(aten.erfinv.default, b.quantize(b.input, 8))
    model = b.finish(b.call(aten.mean.dim, x, [2, 3]))
    with pytest.raises(UnknownOperatorError, match=r"aten\.erfinv"):
        reference_logits(model, torch.zeros(1, 3, 4, 4))
