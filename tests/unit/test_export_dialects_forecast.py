"""What is said of each runtime."""

from dataclasses import replace

import pytest

from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget
from lrq_deploy.export.dialects.tensorrt import TensorRTTarget
from lrq_deploy.planning.plan import LayerFacts, Sizes
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.unit

CONVOLUTION = LayerFacts("a", "conv2d", "dense", (8, 8, 3, 3), 1000, 100, 4, 4, False)
SIZES = Sizes(40 * 2**20, 10 * 2**20, 5 * 2**20, 11 * 2**20)


@pytest.mark.parametrize("grouping", ["depthwise", "grouped"])
def test_narrow_groups_are_flagged_for_tensorrt(grouping: str) -> None:
    layer = replace(CONVOLUTION, grouping=grouping)  # type: ignore[arg-type]
    found = TensorRTTarget().execution(layer, Scheme())
    assert found.integer
    assert "slower than FP16" in found.note
    assert TensorRTTarget().execution(CONVOLUTION, Scheme()).note == ""
    assert OnnxRuntimeTarget().execution(layer, Scheme()).note == ""


def test_free_zero_points_are_refused_by_tensorrt_only() -> None:
    scheme = Scheme(act_symmetry="asymmetric")
    found = TensorRTTarget().execution(CONVOLUTION, scheme)
    assert not found.integer
    assert "--act-symmetry symmetric" in found.note
    assert OnnxRuntimeTarget().execution(CONVOLUTION, scheme).integer


def test_float_layers_say_why() -> None:
    for layer in (
        replace(CONVOLUTION, kind="conv_transpose2d"),
        replace(CONVOLUTION, gives_logits=True),
    ):
        found = OnnxRuntimeTarget().execution(layer, Scheme())
        assert not found.integer
        assert found.note


def test_transposed_convolutions_are_float_in_tensorrt_too() -> None:
    layer = replace(CONVOLUTION, kind="conv_transpose2d")
    found = TensorRTTarget().execution(layer, Scheme())
    assert not found.integer
    assert "no INT8 kernel" in found.note


def test_int4_linear_is_named_where_it_is_not_given() -> None:
    without, given = (
        " ".join(TensorRTTarget().what_bits_buy(Scheme(4, 4, int4_linear=given), SIZES))
        for given in (False, True)
    )
    assert "--int4-linear" in without
    assert "--int4-linear" not in given
    assert "unless given" not in given


def test_four_bits_buy_a_download_and_no_speed() -> None:
    said = " ".join(OnnxRuntimeTarget().what_bits_buy(Scheme(4, 4), SIZES))
    assert "5.00 MiB" in said
    assert "10.00 MiB at 8 bits" in said
    assert "not faster" in said
    said = " ".join(TensorRTTarget().what_bits_buy(Scheme(4, 4), SIZES))
    assert "same engine size as 8 bits and not faster" in said


@pytest.mark.parametrize("bits", [4, 8])
def test_int8_on_tensorrt_for_rtx_is_not_sold_as_fast(bits: int) -> None:
    said = " ".join(TensorRTTarget().what_bits_buy(Scheme(bits, bits), SIZES))
    assert "likely slower than FP16 there: measure both with bench" in said


def test_eight_bits_promise_no_smaller_file_than_int8() -> None:
    for bits in (5, 8):
        said = " ".join(OnnxRuntimeTarget().what_bits_buy(Scheme(bits, 8), SIZES))
        assert "packed" not in said
        assert "clip" not in said


@pytest.mark.parametrize(("bits", "together"), [(2, "four"), (3, "two"), (4, "two")])
def test_few_bits_are_packed(bits: int, together: str) -> None:
    said = " ".join(OnnxRuntimeTarget().what_bits_buy(Scheme(bits, 8), SIZES))
    assert f"{bits}-bit weights are stored packed, {together} per byte" in said
