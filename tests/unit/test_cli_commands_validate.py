"""``validate`` and ``bench`` on a bundle: reports, gates, bad input."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from rich.console import Console
from support.engine_files import write_engine_of
from support.frozen_graphs import residual_student

from lrq_deploy.cli.commands.bench import bench
from lrq_deploy.cli.commands.build import build
from lrq_deploy.cli.commands.validate import validate
from lrq_deploy.cli.job.benchmark import bench_bundle
from lrq_deploy.cli.job.validation import VALIDATION_SCHEMA, ValidateOptions, validate_bundle
from lrq_deploy.cli.reports.bench import print_benchmark
from lrq_deploy.cli.reports.validate import print_validation
from lrq_deploy.errors import (
    BoundError,
    BundleError,
    ExportError,
    ImageError,
    OptionError,
    ParityError,
)
from lrq_deploy.export.bundle.folder import load_bundle, write_bundle
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.measures.latency import BenchmarkOptions
from lrq_deploy.export.onnx_graph import save_onnx, to_onnx
from lrq_deploy.export.parity.ladder import Ladder

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = residual_student(4, 4, blocks=(1, 1))
    graphs = {
        f"model{infix}.onnx": to_onnx(model, target).SerializeToString(deterministic=True)
        for infix, target in (("", "onnxruntime"), (".tensorrt", "tensorrt"))
    }
    images = torch.rand(9, *model.input_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    out = tmp_path_factory.mktemp("bundles") / "out"
    write_bundle(out, model, graphs, images, 0, {}, {})
    return out


def rewritten(bundle: Path, out: Path, **graphs: bytes) -> Path:
    """The same bundle with other graphs and right hashes."""
    opened = load_bundle(bundle)
    kept = {f"{name}.onnx": data for name, data in graphs.items()}
    write_bundle(out, opened.model(), kept, torch.zeros(1, *opened.manifest.input_shape), 0, {}, {})
    return out


def test_a_good_bundle(bundle: Path) -> None:
    found = validate_bundle(
        ValidateOptions(bundle, count=40, reference_count=3, min_integer_coverage=0.95)
    )
    found.require()
    assert (found.images, found.images_source) == (40, "synthetic")
    assert [rung.name for rung in found.ladder.rungs][4:] == ["tensorrt-dialect", "engine"]
    assert "none beside" in found.ladder.rungs[5].skipped
    document = json.loads(json.dumps(found.to_json()))
    assert document["schema_version"] == VALIDATION_SCHEMA
    assert document["passes"] is True
    assert document["rungs"][1]["parity"]["same_rows"] == 1
    written = io.StringIO()
    print_validation(Console(file=written, width=80), found)
    text = written.getvalue()
    for part in ("numpy integers", "TensorRT dialect", "QLinearConv", "VALID: every form"):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 80


MEASURED = {
    "fidelity": {"count": 500, "drop_points": 1.5, "agreement": 0.96},
    "verdict": {"headline": "SHIP IT", "told": True},
    "images_source": "folder",
}


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({}, "VALID: every form"),
        ({"max_drop": 1.5, "min_agreement": 0.96}, "VALID: every form"),
        ({"max_drop": 1.0}, "NOT VALID: --max-drop allows a loss of 1 points on labelled images"),
        ({"min_agreement": 0.97}, "NOT VALID: --min-agreement wants 97 % of the same answers"),
    ],
)
def test_gates_on_the_accuracy_that_was_measured(
    gates: dict[str, Any],
    said: str,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made, opened = tmp_path / "measured", load_bundle(bundle)
    graphs = {"model.onnx": (bundle / "model.onnx").read_bytes()}
    images = torch.zeros(1, *opened.manifest.input_shape)
    write_bundle(made, opened.model(), graphs, images, 0, {}, MEASURED)
    counts: dict[str, Any] = {"count": 4, "reference_count": 1, "quiet": True}
    fails = said.startswith("NOT")
    with pytest.raises(BoundError) if fails else contextlib.nullcontext():
        validate(made, **gates, **counts)
    text = " ".join(capsys.readouterr().out.split())
    assert said in text
    assert "Of accuracy this says nothing; quantize said: SHIP IT." in text
    with pytest.raises(BoundError) if fails else contextlib.nullcontext():
        validate(made, json=True, **gates, **counts)
    document = json.loads(capsys.readouterr().out)
    assert document["passes"] is not fails
    assert document["accuracy"]["drop_points"] == 1.5
    assert document["accuracy"]["max_drop"] == gates.get("max_drop")


def test_a_bundle_without_a_verdict_says_so(bundle: Path) -> None:
    found = validate_bundle(ValidateOptions(bundle, count=4, reference_count=1))
    written = io.StringIO()
    print_validation(Console(file=written, width=200), found)
    assert (
        "VALID: every form that ran is within its bound. Of accuracy this says nothing; the "
        in (written.getvalue())
    )


@pytest.mark.parametrize("width", [40, 60, 70, 80])
def test_figures_and_verdicts_are_never_cut(bundle: Path, width: int) -> None:
    found = validate_bundle(ValidateOptions(bundle, count=4, reference_count=1))
    written = io.StringIO()
    print_validation(Console(file=written, width=width), found)
    ladder = written.getvalue().partition("executed in integers")[0]
    assert "…" not in ladder
    assert ladder.count(" ok ") == sum(rung.parity is not None for rung in found.ladder.rungs)
    assert ladder.count("100.00") >= ladder.count(" ok ")
    assert max(len(line) for line in ladder.splitlines()) <= max(width, 60)


def test_coverage_below_the_gate(bundle: Path) -> None:
    found = validate_bundle(ValidateOptions(bundle, count=4, reference_count=1))
    first = found.coverage.layers[0]
    floating = replace(first, integer=False, kernel="Conv", reason="its input is a float tensor")
    coverage = replace(found.coverage, layers=(floating, *found.coverage.layers[1:]))
    failing = replace(found, coverage=coverage, min_integer_coverage=0.99)
    with pytest.raises(ExportError, match="its input is a float tensor"):
        failing.require()
    assert failing.to_json()["passes"] is False
    replace(failing, min_integer_coverage=None).require()
    written = io.StringIO()
    print_validation(Console(file=written, width=80), failing)
    assert "NOT VALID: too little" in written.getvalue()


@pytest.mark.skipif(torch.cuda.is_available(), reason="an engine file of no engine needs no GPU")
def test_a_required_engine_that_does_not_run_fails_behind_its_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = tmp_path / "named.engine"
    write_engine_of(load_bundle(bundle), engine, "tensorrt-rtx")
    counts = {"count": 4, "reference_count": 1, "quiet": True}
    validate(bundle, engine=engine, **counts)  # type: ignore[arg-type]
    said = " ".join(capsys.readouterr().out.split())
    assert "engine not run: an engine needs its file, its GPU" in said
    assert "no GPU that CUDA sees; run this on the machine that has the GPU" in said
    assert "VALID: every form that ran is within its bound." in said
    for file, reason in ((engine, "no GPU that CUDA sees"), (None, "none beside")):
        with pytest.raises(BoundError, match=f"--require-engine .*{reason}"):
            validate(bundle, engine=file, require_engine=True, json=True, **counts)  # type: ignore[arg-type]
        document = json.loads(capsys.readouterr().out)
        assert (document["passes"], document["require_engine"]) == (False, True)
    found = validate_bundle(ValidateOptions(bundle, count=4, require_engine=True))
    written = io.StringIO()
    print_validation(Console(file=written, width=80), found)
    assert "NOT VALID: the required engine did not run." in written.getvalue()


def test_a_required_engine_of_a_bundle_without_its_graph_fails(
    bundle: Path, tmp_path: Path
) -> None:
    graph = (bundle / "model.onnx").read_bytes()
    path = rewritten(bundle, tmp_path / "one", model=graph)
    options = ValidateOptions(path, count=4, reference_count=1)
    assert validate_bundle(options).ladder.rung("engine") is None
    found = validate_bundle(replace(options, require_engine=True))
    assert found.missing_engine


def test_an_engine_that_is_none_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    options = ValidateOptions(bundle, engine=tmp_path / "x.engine")
    with pytest.raises(BundleError, match="must be readable"):
        validate_bundle(options)
    write_engine_of(load_bundle(bundle), tmp_path / "x.engine", "tensorrt", graph_sha256="0")
    with pytest.raises(BundleError, match=r"the bundle's model\.tensorrt\.onnx"):
        validate_bundle(options)


def test_an_engine_named_for_a_bundle_without_its_graph_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    graph = (bundle / "model.onnx").read_bytes()
    path = rewritten(bundle, tmp_path / "one", model=graph)
    write_engine_of(load_bundle(bundle), tmp_path / "x.engine", "tensorrt")
    with pytest.raises(BundleError, match=r"an engine is built from .*model\.tensorrt\.onnx"):
        validate_bundle(ValidateOptions(path, engine=tmp_path / "x.engine"))


def test_what_is_to_be_known_of_an_engine_is_printed(bundle: Path) -> None:
    found = validate_bundle(ValidateOptions(bundle, count=4, reference_count=1))
    engine = replace(found.ladder.rungs[0], name="engine", remark="built on GPU 8")
    written = io.StringIO()
    print_validation(Console(file=written, width=80), replace(found, ladder=Ladder((engine,))))
    assert "  engine built on GPU 8" in written.getvalue()


def test_images_of_a_folder(bundle: Path, tmp_path: Path) -> None:
    for index in range(5):
        Image.new("RGB", (30, 20), (index * 40, 90, 10)).save(tmp_path / f"{index}.png")
    options = ValidateOptions(bundle, tmp_path, count=3, reference_count=1)
    found = validate_bundle(options)
    assert (found.images, found.images_source) == (3, "folder")
    with pytest.raises(ImageError):
        validate_bundle(ValidateOptions(bundle, tmp_path / "missing"))


@pytest.mark.parametrize("folders", [1, 30])
def test_folders_of_images_are_no_classes(bundle: Path, tmp_path: Path, folders: int) -> None:
    for index in range(folders):
        folder = tmp_path / "images" / f"{index}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (index * 8, 90, 10)).save(folder / "0.png")
    options = ValidateOptions(bundle, tmp_path / "images", reference_count=1)
    found = validate_bundle(options)
    assert (found.images, found.remarks) == (folders, ())
    with pytest.raises(ImageError) as caught:
        validate_bundle(replace(options, images=tmp_path / "missing"))
    assert "--images; images are then made from the bundle's own" in caught.value.remedy


def test_a_wrong_graph_fails_behind_its_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(bundle / "model.onnx")
    layer = list(load_bundle(bundle).model().layers())[2]
    weights = [x for x in proto.graph.initializer if x.name.startswith(f"{layer}.weight")]
    weight = max(weights, key=lambda x: len(x.dims))
    turned = np.ascontiguousarray(numpy_helper.to_array(weight)[::-1])
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    broken = rewritten(bundle, tmp_path / "broken", model=proto.SerializeToString())
    with pytest.raises(ParityError, match=layer):
        validate(broken, count=40, reference_count=1, json=True, quiet=True)
    document = json.loads(capsys.readouterr().out)
    assert document["passes"] is False
    assert document["rungs"][3]["divergence"]["layers"] == [layer]


def test_bundles_that_are_refused(bundle: Path, tmp_path: Path) -> None:
    good = (bundle / "model.onnx").read_bytes()
    foreign = onnx.load(bundle / "model.onnx")
    foreign.producer_name = "pytorch"
    newer = onnx.load(bundle / "model.onnx")
    other = onnx.load(bundle / "model.onnx")
    for entry in newer.metadata_props:
        entry.value = "99" if entry.key == "lrq_schema_version" else entry.value
    for entry in other.metadata_props:
        entry.value = "f" * 64 if entry.key == "lrq_teacher_fingerprint" else entry.value
    blind = onnx.load(bundle / "model.onnx")
    del blind.graph.output[:]
    silent = onnx.load(bundle / "model.onnx")
    del silent.metadata_props[:]
    elsewhere = onnx.load(bundle / "model.onnx")
    elsewhere.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    cases = {
        "one of other inputs or outputs": blind.SerializeToString(),
        "one with weights in files": elsewhere.SerializeToString(),
        "tells no lrq_schema_version": silent.SerializeToString(),
        "one of pytorch": foreign.SerializeToString(),
        "lrq_schema_version of a graph": newer.SerializeToString(),
        "one of another network": other.SerializeToString(),
        "no ONNX file": b"\xff" * 40,
        "one for the target 'tensorrt'": (bundle / "model.tensorrt.onnx").read_bytes(),
    }
    for index, (message, data) in enumerate(cases.items()):
        path = rewritten(bundle, tmp_path / str(index), model=data)
        with pytest.raises(BundleError, match=message):
            validate_bundle(ValidateOptions(path))
        with pytest.raises(BundleError, match=message):
            bench_bundle(path, BenchmarkOptions())
        with pytest.raises(BundleError, match=message):
            build(path, preoptimize=True)
    changed = shutil.copytree(bundle, tmp_path / "changed")
    (changed / "model.onnx").write_bytes(good + b"\0")
    manifest = json.loads((bundle / "manifest.json").read_text())
    later = shutil.copytree(bundle, tmp_path / "later")
    (later / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    for path, message in (
        (changed, "SHA-256"),
        (later, "manifest.json must have schema_version 1 or 2 or 3"),
        (bundle / "model.onnx", "pass the directory"),
        (tmp_path / "missing", "pass the directory"),
    ):
        with pytest.raises(BundleError, match=message):
            validate_bundle(ValidateOptions(path))


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"reference_count": 0}, {"threads": 0}, {"min_integer_coverage": 1.5}],
)
def test_options_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="--"):
        ValidateOptions(Path("x"), **wrong)  # type: ignore[arg-type]


def test_bench_prints_and_gates(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench(bundle, batch="2", runs=10, max_latency_ratio=1000, json=True, quiet=True)
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert document["batches"][0]["batch_size"] == 2
    assert document["quantized_bytes"] == (bundle / "model.onnx").stat().st_size
    with pytest.raises(ExportError, match=r"at most 0\.0001"):
        bench(bundle, batch="1", runs=10, max_latency_ratio=0.0001, quiet=True)
    assert "images/s" in capsys.readouterr().out


def test_bench_against_a_given_float_graph(bundle: Path, tmp_path: Path) -> None:
    options = BenchmarkOptions(batch_sizes=(1,), runs=10)
    given = tmp_path / "float.onnx"
    save_onnx(float_twin(load_bundle(bundle).model()), given)
    found = bench_bundle(bundle, options, given)
    assert found.float_bytes == given.stat().st_size
    written = io.StringIO()
    print_benchmark(Console(file=written, width=80), found)
    assert "1 thread, " in written.getvalue()
    assert "peak memory: float" in written.getvalue()
    with pytest.raises(BundleError, match="--float") as raised:
        bench_bundle(bundle, options, tmp_path / "missing.onnx")
    assert raised.value.received.endswith("missing.onnx, which is no file")
    with pytest.raises(BundleError, match="--float") as raised:
        bench_bundle(bundle, options, bundle / "model.onnx")
    assert "a quantized graph, which has DequantizeLinear" in raised.value.received
    given.write_bytes(b"\xff" * 40)
    with pytest.raises(BundleError, match="--float") as raised:
        bench_bundle(bundle, options, given)
    assert raised.value.received.endswith("no ONNX file (DecodeError)")


def test_bench_warns_of_its_images_and_names_its_option(bundle: Path, tmp_path: Path) -> None:
    for index in range(2):
        Image.new("RGB", (8, 8), (index * 40, 90, 10)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    options = BenchmarkOptions(batch_sizes=(1,), runs=10)
    found = bench_bundle(bundle, options, static_images=tmp_path)
    remark = "1 of 3 image files could not be decoded and were skipped"
    assert found.to_json()["images_remarks"] == (remark,)
    written = io.StringIO()
    print_benchmark(Console(file=written, width=80), found)
    assert f"warning: {remark}" in written.getvalue()
    with pytest.raises(ImageError, match="--against-static must name a folder") as caught:
        bench_bundle(bundle, options, static_images=tmp_path / "nope")
    assert caught.value.remedy.endswith(
        "leave out --against-static; that graph is then not measured"
    )


@pytest.mark.parametrize(
    "wrong", [{"batch": "x"}, {"batch": "0"}, {"runs": 1}, {"max_latency_ratio": 0.0}]
)
def test_bench_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        bench(Path("missing"), **wrong)


def test_bench_of_a_batch_beyond_every_runtime_is_refused(bundle: Path) -> None:
    with pytest.raises(OptionError, match="at most 2147483647 numbers"):
        bench(bundle, batch="1,99999999999", quiet=True)


@pytest.mark.parametrize("command", ["validate", "bench"])
def test_a_command_on_no_bundle_is_bad_input(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lrq_deploy", command, "missing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "received: missing/manifest.json" in done.stderr
