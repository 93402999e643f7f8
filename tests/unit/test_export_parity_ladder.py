"""The parity ladder: what is equal passes, a planted fault is found and named."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.frozen_graphs import FrozenGraphBuilder, mobile_student, residual_student
from torch import Tensor

from lrq_deploy.errors import ExportError, ImageError, ParityError
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.bounds import Bound
from lrq_deploy.export.parity.exposure import (
    exact_trace,
    first_divergence,
    onnx_trace,
    reference_trace,
    torch_trace,
)
from lrq_deploy.export.parity.ladder import Ladder, Rung, climb
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit


def images(model: QuantizedModel, count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, *model.input_shape, generator=generator)


@cache
def residual(bits: int) -> QuantizedModel:
    return replace(residual_student(bits, bits, blocks=(1, 1)), scheme=Scheme(bits, bits))


@cache
def mobile() -> QuantizedModel:
    return mobile_student(asymmetric=False)


_GRAPHS: dict[tuple[int, str], bytes] = {}


def graph_of(model: QuantizedModel, folder: Path, target: str = "onnxruntime") -> Path:
    """Exported once for each cached model; an export takes a second."""
    key = (id(model), target)
    if key not in _GRAPHS:
        _GRAPHS[key] = to_onnx(model, target).SerializeToString()
    path = folder / f"{target}.onnx"
    path.write_bytes(_GRAPHS[key])
    return path


def change(path: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Edit the constant whose name begins so."""
    proto = onnx.load(path)
    named = [x for x in proto.graph.initializer if x.name.startswith(name)]
    constant = max(named, key=lambda x: len(x.dims))
    array = edit(numpy_helper.to_array(constant).copy())
    constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    onnx.save(proto, path)


@pytest.mark.parametrize("bits", [4, 8])
def test_all_forms_of_a_student_agree(bits: int, tmp_path: Path) -> None:
    model = residual(bits)
    ladder = climb(
        model,
        graph_of(model, tmp_path),
        images(model).split(5),
        {"tensorrt": graph_of(model, tmp_path, "tensorrt")},
        reference_count=7,
    )
    ladder.require()
    names = ["simulation", "reference", "onnxruntime-off", "onnxruntime-all", "tensorrt-dialect"]
    assert [rung.name for rung in ladder.rungs] == names
    parities = [rung.parity for rung in ladder.rungs if rung.parity is not None]
    assert [parity.count for parity in parities] == [12, 7, 12, 12, 12]
    assert all(parity.same_top1 == 1 for parity in parities)
    # Twelve of twelve rows of the simulation say 76 % or more.
    assert ladder.rungs[3].bound.same_rows == (
        0.99 if bits == 4 else pytest.approx(0.757, abs=1e-3)
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_a_fault_that_moves_no_answer_fails(bits: int, tmp_path: Path) -> None:
    model = residual(bits)
    paths = [graph_of(model, tmp_path, target) for target in ("onnxruntime", "tensorrt")]
    layer = list(model.layers())[-1]
    for path in paths:
        change(path, f"{layer}.weight_scale", lambda scale: scale * np.float32(1.01))
    ladder = climb(model, paths[0], [images(model)], {"tensorrt": paths[1]})
    graphs = ["onnxruntime-off", "onnxruntime-all", "tensorrt-dialect"]
    assert [rung.name for rung in ladder.failures] == graphs
    assert all(rung.parity and rung.parity.same_top1 == 1 for rung in ladder.rungs)


def test_a_changed_weight_fails_and_its_layer_is_named(tmp_path: Path) -> None:
    model = residual(8)
    path = graph_of(model, tmp_path)
    layer = list(model.layers())[3]
    change(path, f"{layer}.weight", lambda weight: weight[::-1])
    ladder = climb(model, path, [images(model, 40)])
    assert [rung.name for rung in ladder.failures] == ["onnxruntime-off", "onnxruntime-all"]
    for rung in ladder.failures:
        assert rung.divergence is not None
        assert rung.divergence.layers == (layer,)
    with pytest.raises(ParityError, match=f"onnxruntime-all: top-1 .* first at {layer}"):
        ladder.require()


def test_a_difference_in_the_last_layer_is_in_the_logits(tmp_path: Path) -> None:
    model = mobile()
    path = graph_of(model, tmp_path)
    change(path, f"{list(model.layers())[-1]}.bias_int32", lambda bias: bias + 50)
    ladder = climb(model, path, [images(model)])
    assert ladder.rungs[3].divergence is None
    assert ladder.rungs[3].where == "the logits"


def test_an_operator_unknown_to_the_reference_skips_that_rung_only(tmp_path: Path) -> None:
    b = FrozenGraphBuilder(torch.randn(2, 3, 4, 4))
    x = b.call(torch.ops.aten.atan.default, b.quantize(b.input, 8))
    model = b.finish(b.call(torch.ops.aten.mean.dim, x, [2, 3]))
    ladder = climb(model, graph_of(model, tmp_path), [images(model)])
    assert [bool(rung.skipped) for rung in ladder.rungs] == [False, True, False, False]
    assert "aten.atan" in ladder.rungs[1].skipped
    assert ladder.rungs[1].to_json()["parity"] is None


@pytest.mark.parametrize("batches", [[], [torch.zeros(2, 3, 8, 8)]])
def test_images_must_be_there_and_fit(batches: list[Tensor], tmp_path: Path) -> None:
    model = residual(4)
    with pytest.raises(ImageError):
        climb(model, graph_of(model, tmp_path), batches)


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    model = residual(4)
    with pytest.raises(ExportError):
        climb(model, tmp_path / "x.onnx", [images(model)])


def test_a_rung_that_could_not_run_breaks_nothing() -> None:
    Ladder((Rung("skipped", "skipped", Bound(), skipped="why"),)).require()


def test_the_fused_graph_and_the_reference_are_held_strictly(tmp_path: Path) -> None:
    model = residual(4)
    tensorrt = {"tensorrt": graph_of(model, tmp_path, "tensorrt")}
    ladder = climb(model, graph_of(model, tmp_path), [images(model, 2)], tensorrt)
    strict = [rung.name for rung in ladder.rungs if not rung.bound.within_chance]
    assert strict == ["reference", "onnxruntime-all"]


@pytest.mark.parametrize("make", [lambda: residual(4), mobile], ids=["residual", "mobile"])
def test_traces_hold_the_same_integers(make: Callable[[], QuantizedModel], tmp_path: Path) -> None:
    model, path = make(), tmp_path
    x = images(model, 2)
    exact = exact_trace(model, x)
    file = graph_of(model, path)
    others = [torch_trace(model, x), reference_trace(model, x)]
    for level in ("off", "all"):
        others.append(onnx_trace(model, file, x, level))
    assert len(exact) == len(model.quantizers())
    for trace in others:
        assert trace.keys() == exact.keys()
        assert first_divergence(model, exact, trace) is None


def test_int8_traces_are_centred(tmp_path: Path) -> None:
    model = residual(4)
    trace = onnx_trace(model, graph_of(model, tmp_path, "tensorrt"), images(model, 2), "off")
    assert first_divergence(model, exact_trace(model, images(model, 2)), trace) is None


def test_the_first_of_several_divergences_is_told() -> None:
    model = residual(4)
    trace = dict(exact_trace(model, images(model, 2)))
    other = dict(trace)
    names = list(trace)
    other[names[0]] = trace[names[0]].copy()
    other[names[0]].flat[0] += 3
    other[names[2]] = trace[names[2]] + 1
    found = first_divergence(model, trace, other)
    assert found is not None
    assert (found.tensor, found.layers, found.steps) == (names[0], (), 3)
    assert found.share == 1 / trace[names[0]].size
    assert found.describe().startswith(f"the input -> {names[0]}")
