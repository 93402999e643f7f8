"""Graphs fused ahead of time: the same bits, on this CPU type only."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from support.bundles import bundle_of
from support.frozen_graphs import residual_student
from typer.testing import CliRunner

from lrq_deploy.cli.main import app
from lrq_deploy.errors import BundleError, OptionError, OutputError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.derived import preoptimized
from lrq_deploy.export.derived.preoptimized import cpu_type, open_preoptimized, preoptimize
from lrq_deploy.export.runtime.session import open_session

pytestmark = pytest.mark.unit


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of(residual_student(4, 4, blocks=(1,)), tmp_path / "net")


def test_the_graph_is_fused_and_gives_the_same_bits(bundle: Bundle, tmp_path: Path) -> None:
    written = preoptimize(bundle, tmp_path / "fast.onnx")
    assert written.size_bytes == written.path.stat().st_size
    kinds = {node.op_type for node in onnx.load(written.path).graph.node}
    assert "QLinearConv" in kinds
    images = torch.randn(3, *bundle.manifest.input_shape)
    theirs = open_session(bundle.file("model.onnx")).logits(images)
    assert torch.equal(open_preoptimized(written.path).logits(images), theirs)


def test_another_cpu_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = preoptimize(bundle, tmp_path / "fast.onnx")
    other = replace(cpu_type(), features="amx_int8")
    monkeypatch.setattr(preoptimized, "cpu_type", lambda: other)
    with pytest.raises(BundleError, match="cpu features"):
        open_preoptimized(written.path)


def test_a_graph_without_marks_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="machine"):
        open_preoptimized(bundle.file("model.onnx"))


def test_an_existing_file_stays_unless_forced(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "fast.onnx"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exist"):
        preoptimize(bundle, out)
    assert out.read_text() == "mine"
    assert preoptimize(bundle, out, force=True).path == out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_features_are_read_from_the_system(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("model name : A CPU\nflags : fpu avx2 avx512f avx512_vnni\n")
    found = cpu_type(listing)
    assert (found.name, found.features) == ("A CPU", "avx2 avx512f avx512_vnni")


def test_the_command_writes_beside_the_bundle(bundle: Bundle) -> None:
    done = CliRunner().invoke(app, ["build", str(bundle.path), "--preoptimize", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    path = bundle.path.with_name("net.optimized.onnx")
    assert (document["path"], document["size_bytes"]) == (str(path), path.stat().st_size)
    assert document["cpu"]["machine"] == cpu_type().machine
    open_preoptimized(path)


@pytest.mark.parametrize("built", [["--preoptimize"], ["--onnxruntime", "1.18"]])
def test_the_command_writes_beside_the_bundle_that_it_stands_in(
    bundle: Bundle, built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = bundle.path / "sub"
    inside.mkdir()
    monkeypatch.chdir(inside)
    before = {path.name for path in bundle.path.iterdir()}
    done = CliRunner().invoke(app, ["build", "..", *built, "--json"])
    assert done.exit_code == 0, done.output
    written = Path(json.loads(done.stdout)["path"])
    assert (written.parent, written.name[:4]) == (bundle.path.parent, "net.")
    assert {path.name for path in bundle.path.iterdir()} == before


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--preoptimize", "--engine", "tensorrt-rtx"],
        ["--preoptimize", "--onnxruntime", "1.18"],
        ["--onnxruntime", "1.18", "--engine", "tensorrt-rtx"],
    ],
)
def test_the_command_builds_one_thing(bundle: Bundle, flags: list[str]) -> None:
    done = CliRunner().invoke(app, ["build", str(bundle.path), *flags])
    assert isinstance(done.exception, OptionError)
    assert "--preoptimize" in done.exception.rule


@pytest.mark.parametrize("built", [["--preoptimize"], ["--onnxruntime", "1.18"]])
@pytest.mark.parametrize(
    "options", [["--sm", "89"], ["--batch", "1,1,8"], ["--workspace", "4"], ["--fp16-rest"]]
)
def test_options_of_engines_are_refused_without_one(
    bundle: Bundle, built: list[str], options: list[str]
) -> None:
    done = CliRunner().invoke(app, ["build", str(bundle.path), *built, *options])
    assert isinstance(done.exception, OptionError)
    assert done.exception.rule == f"{options[0]} is for engines"
    assert built[0] in done.exception.remedy
    assert [path.name for path in bundle.path.parent.iterdir()] == ["net"]


def test_all_options_of_engines_are_named(bundle: Bundle) -> None:
    flags = ["--preoptimize", "--sm", "89", "--workspace", "4", "--batch", "3", "--fp16-rest"]
    done = CliRunner().invoke(app, ["build", str(bundle.path), *flags])
    assert isinstance(done.exception, OptionError)
    assert done.exception.rule == "--sm, --batch, --workspace, --fp16-rest are for engines"
