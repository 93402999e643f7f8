"""A bundle's graph for an older ONNX Runtime: nothing newer in it, and the same bits."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import FrozenGraphBuilder, aten, residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.main import app
from lrq_deploy.errors import OptionError, OutputError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.derived.older_runtime import write_for_runtime
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget, oldest_version
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.runtime.version import (
    DEQUANTIZES_INT4,
    MOVES_INTEGERS_TO_CHANNELS,
    NEWEST_NEED,
    OLDEST,
    UNPACKS_INT2,
    UNPACKS_INT4,
    RuntimeVersion,
    needed_version,
    parse_version,
)
from lrq_deploy.graph.specification import LayerSpec
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.frozen import QuantizedModel

pytestmark = pytest.mark.unit


def large_stem(bits: int = 4) -> QuantizedModel:
    """A 7 x 7 convolution of stride 2 with weights of few bits."""
    sample = torch.randn(16, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    builder = FrozenGraphBuilder(sample)
    x = builder.quantize(builder.input)
    stem = LayerSpec("conv2d", stride=(2, 2), padding=(3, 3))
    x = builder.quantize(builder.layer(x, 16, kernel=7, bits=bits, spec=stem))
    x = builder.quantize(builder.call(aten.mean.dim, x, [-1, -2], True))
    x = builder.call(aten.view.default, x, [-1, 16])
    return builder.finish(builder.layer(x, 5, spec=LayerSpec("linear")))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of(large_stem(), tmp_path / "net")


def needed(path: Path) -> RuntimeVersion:
    return needed_version(onnx.load(path).graph)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((1, 18), OLDEST),
        ((1, 22), OLDEST),
        ((1, 23), UNPACKS_INT4),
        ((1, 27), UNPACKS_INT4),
        ((1, 28), MOVES_INTEGERS_TO_CHANNELS),
        ((2, 0), MOVES_INTEGERS_TO_CHANNELS),
    ],
)
def test_nothing_newer_is_in_it_and_the_bits_are_the_same(
    bundle: Bundle, tmp_path: Path, version: RuntimeVersion, expected: RuntimeVersion
) -> None:
    written = write_for_runtime(bundle, version, tmp_path / "older.onnx")
    assert needed(written.path) == expected
    assert parse_version(written.needs_onnxruntime) == expected
    assert written.size_bytes == written.path.stat().st_size
    images = torch.randn(3, *bundle.manifest.input_shape)
    theirs = open_session(bundle.file("model.onnx")).logits(images)
    assert torch.equal(open_session(written.path).logits(images), theirs)


@pytest.mark.parametrize(
    ("version", "expected"), [((1, 23), UNPACKS_INT4), ((1, 24), UNPACKS_INT2)]
)
def test_weights_of_two_bits_are_packed_as_the_runtime_unpacks_them(
    tmp_path: Path, version: RuntimeVersion, expected: RuntimeVersion
) -> None:
    bundle = bundle_of(large_stem(bits=2), tmp_path / "net")
    written = write_for_runtime(bundle, version, tmp_path / "older.onnx")
    assert needed(written.path) == expected
    images = torch.randn(3, *bundle.manifest.input_shape)
    theirs = open_session(bundle.file("model.onnx")).logits(images)
    assert torch.equal(open_session(written.path).logits(images), theirs)


def test_a_bundle_needs_the_newest_thing_in_it(bundle: Bundle, tmp_path: Path) -> None:
    assert needed(bundle.file("model.onnx")) == NEWEST_NEED
    small = bundle_of(residual_student(8, 8, blocks=(1,)), tmp_path / "small")
    assert needed(small.file("model.onnx")) == OLDEST


def test_int4_linear_layers_need_a_runtime_that_dequantizes_them() -> None:
    scheme = Scheme(4, 8, int4_linear=True)
    OnnxRuntimeTarget(DEQUANTIZES_INT4).check(scheme)
    assert oldest_version(scheme) == DEQUANTIZES_INT4
    assert oldest_version(Scheme(4, 8)) == OLDEST
    with pytest.raises(OptionError, match=r"1\.19 or later"):
        OnnxRuntimeTarget(OLDEST).check(scheme)


@pytest.mark.parametrize("text", ["", "1", "1.x", "1.18.0.1", "-1.18", "1.17", "0.99", "²1.18"])
def test_other_versions_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--onnxruntime must be"):
        parse_version(text)


def test_an_existing_file_stays_unless_forced(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "older.onnx"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exist"):
        write_for_runtime(bundle, OLDEST, out)
    assert out.read_text() == "mine"
    assert write_for_runtime(bundle, OLDEST, out, force=True).path == out


def test_the_command_writes_beside_the_bundle(bundle: Bundle) -> None:
    flags = ["build", str(bundle.path), "--onnxruntime", "1.18.1"]
    done = CliRunner().invoke(app, [*flags, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    path = bundle.path.with_name("net.onnxruntime-1.18.onnx")
    assert (document["path"], document["needs_onnxruntime"]) == (str(path), "1.18")
    again = CliRunner().invoke(app, [*flags, "--force"])
    assert "for onnxruntime 1.18 or later; the same bits as model.onnx" in again.stdout
