"""The whole job on small networks: what a bundle holds, that a seed decides it, what diverges."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from support.small_networks import Residual, with_statistics
from support.tiny_run import SWITCHES, TINY, Run, tiny

import lrq_deploy
from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.cli.commands import demo_network
from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.cli.job.validation import ValidateOptions, validate_bundle
from lrq_deploy.errors import ImageError, OptionError
from lrq_deploy.export.bundle.folder import CLASSIFY_NAME, load_bundle
from lrq_deploy.method.methods import METHODS, method_settings
from lrq_deploy.options import Method, QuantizeOptions
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.resume.control import RunControl
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.integration

MAX_DROP_POINTS = 2.0
MIN_SAME_TOP1 = 0.999


def digest(run: Run, name: str = "student.safetensors") -> str:
    return run.bundle.manifest.files[name].sha256


@pytest.fixture(scope="session")
def digits_bundle(digits_teacher: TrainedDigits, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """W4A4 with the fast recipe, measured on the held-out digits."""
    out = tmp_path_factory.mktemp("digits") / "bundle"
    options = QuantizeOptions(
        digits_teacher.model_file,
        out,
        Scheme(4, 4, 8),
        images=digits_teacher.image_folder,
        recipe="fast",
        device="cpu",
    )
    result = quantize(options)
    return Run(result, load_bundle(out))


@pytest.fixture(scope="session")
def reference(digits_teacher: TrainedDigits, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(digits_teacher, tmp_path_factory.mktemp("tiny") / "bundle")


def test_the_manifest_keeps_every_setting_of_the_run(reference: Run) -> None:
    assert reference.bundle.manifest.metrics["settings"] == asdict(TINY)


def test_the_bundle_is_whole_and_hashed(digits_bundle: Run) -> None:
    bundle = digits_bundle.bundle
    names = {path.name for path in bundle.path.iterdir()}
    graphs = {"model.onnx", "model.tensorrt.onnx"}
    assert names == {
        *("manifest.json", "student.safetensors", "synthetic.png", CLASSIFY_NAME),
        *graphs,
    }
    document = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    assert document["files"].keys() == names - {"manifest.json"}
    for name, record in document["files"].items():
        data = (bundle.path / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def test_every_metric_is_finite(digits_bundle: Run) -> None:
    metrics = digits_bundle.bundle.manifest.metrics
    stages = {"generator", "student", "fidelity", "parity", "coverage", "ladder", "bench"}
    assert metrics.keys() >= stages | {"seconds"}
    assert [rung["passes"] for rung in metrics["ladder"]] == [True] * 5
    assert metrics["bench"]["worst_ratio"] > 0
    found = torch.tensor(list(numbers(metrics)))
    assert len(found) > 30
    assert bool(found.isfinite().all())


def test_four_bits_lose_little_on_real_digits(
    digits_bundle: Run, digits_teacher: TrainedDigits
) -> None:
    fidelity = digits_bundle.bundle.manifest.metrics["fidelity"]
    assert fidelity["labelled"] == fidelity["count"] == 450
    assert 100 * fidelity["teacher_accuracy"] == pytest.approx(digits_teacher.accuracy)
    assert fidelity["drop_points"] <= MAX_DROP_POINTS
    result = digits_bundle.result
    assert list(result.drop_interval or ()) == fidelity["drop_interval"]
    assert fidelity["drop_interval"][0] < fidelity["drop_points"] < fidelity["drop_interval"][1]
    shares = [100 * end for end in fidelity["agreement_interval"]]
    assert list(result.agreement_interval) == shares
    assert shares[0] < result.agreement <= shares[1]
    assert digits_bundle.result.ship


def test_the_program_in_the_bundle_is_as_right_as_the_manifest_says(
    digits_bundle: Run, digits_teacher: TrainedDigits
) -> None:
    script = digits_bundle.bundle.file(CLASSIFY_NAME)
    paths = [str(path) for path in sorted(digits_teacher.image_folder.rglob("*.png"))]
    command = [sys.executable, str(script), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    right = sum(Path(name).parent.name == answer for name, answer, _ in lines)
    fidelity = digits_bundle.bundle.manifest.metrics["fidelity"]
    assert right / len(lines) == fidelity["student_accuracy"]
    assert len(lines) == fidelity["count"]


def test_onnx_runtime_repeats_the_student(digits_bundle: Run) -> None:
    parity = digits_bundle.bundle.manifest.metrics["parity"]
    assert parity["count"] >= 1000
    assert parity["same_top1"] >= MIN_SAME_TOP1
    assert digits_bundle.result.parity_top1 == 100 * parity["same_top1"]


def test_every_multiply_add_runs_in_integers(digits_bundle: Run) -> None:
    coverage = digits_bundle.bundle.manifest.metrics["coverage"]
    assert coverage["integer_share"] == 1.0
    assert [layer["name"] for layer in coverage["layers"] if not layer["integer"]] == []


def test_the_graph_is_valid_and_small(digits_bundle: Run) -> None:
    path = digits_bundle.bundle.file("model.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("input", "logits")
    assert image.type.tensor_type.shape.dim[0].dim_param
    weights = [x for x in model.graph.initializer if x.data_type == onnx.TensorProto.INT4]
    assert len(weights) == 3
    assert digits_bundle.result.student_bytes == path.stat().st_size


def test_the_same_seed_gives_the_same_bytes(
    digits_teacher: TrainedDigits, reference: Run, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    torch.rand(7)
    again = tiny(digits_teacher, tmp_path / "again")
    for name in ("model.onnx", "student.safetensors", "synthetic.png"):
        assert digest(again, name) == digest(reference, name)
    other = tiny(digits_teacher, tmp_path / "other", seed=1)
    assert digest(other) != digest(reference)


def test_a_cache_gives_other_bits_the_same_images(
    digits_teacher: TrainedDigits, reference: Run, tmp_path: Path
) -> None:
    cache = RunControl(cache=tmp_path / "cache")
    eight = tiny(digits_teacher, tmp_path / "eight", control=cache, scheme=Scheme(8, 8, 8))
    four = tiny(digits_teacher, tmp_path / "four", control=cache)
    assert eight.result.seconds_saved == {}
    assert four.result.seconds_saved["synthesize"] > 0
    assert four.bundle.manifest.metrics["seconds_saved"] == four.result.seconds_saved
    for name in ("model.onnx", "student.safetensors", "synthetic.png"):
        assert digest(four, name) == digest(reference, name)
    assert digest(eight, "synthetic.png") == digest(four, "synthetic.png")


@pytest.mark.parametrize(
    "change",
    [
        {"long_range": False},
        {"decoupled": False},
        {"margin": "a1"},
        {"margin": "b"},
        {"margin": "off"},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_each_part_of_the_method_acts(
    digits_teacher: TrainedDigits, reference: Run, tmp_path: Path, change: dict[str, Any]
) -> None:
    run = tiny(digits_teacher, tmp_path / "bundle", method=replace(SWITCHES, **change))
    assert digest(run) != digest(reference)
    assert run.bundle.manifest.options["method"] == asdict(replace(SWITCHES, **change))


@pytest.mark.parametrize("method", ["lrq-blocks", "lrq-paper", "gdfq", "zeroq", "calibrate"])
def test_every_method_gives_a_bundle_from_the_same_parts(
    digits_teacher: TrainedDigits, tmp_path: Path, method: Method
) -> None:
    settings = method_settings(method, TINY, 4)
    settings = replace(
        settings,
        refinement_steps=min(settings.refinement_steps, 2),
        block_steps=min(settings.block_steps, 2),
    )
    switches = METHODS[method].switches
    run = tiny(digits_teacher, tmp_path / "bundle", settings, method=switches, method_name=method)
    metrics = run.bundle.manifest.metrics
    assert run.bundle.manifest.options["method_name"] == method
    assert bool(metrics["student"]) == (method in ("lrq-blocks", "lrq-paper", "gdfq"))
    assert bool(metrics["generator"]) == (method != "zeroq")
    assert run.result.parity_top1 == 100.0


@pytest.mark.parametrize(("weight_bits", "first"), [(2, "blocks"), (4, "student")])
def test_rounding_is_learned_in_blocks_first_below_four_bits(
    digits_teacher: TrainedDigits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weight_bits: int,
    first: str,
) -> None:
    short = replace(TINY, coarse_block_steps=2)
    monkeypatch.setattr("lrq_deploy.method.chosen.recipe_settings", lambda *_: short)
    options = QuantizeOptions(
        digits_teacher.model_file, tmp_path / "bundle", Scheme(weight_bits, 4, 8), device="cpu"
    )
    events: list[ProgressEvent] = []
    quantize(options, events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages[stages.index("ranges") + 1] == first
    assert "student" in stages


def test_zero_points_are_free_when_asymmetric(
    digits_teacher: TrainedDigits, reference: Run, tmp_path: Path
) -> None:
    def zero_points(run: Run) -> set[int]:
        return {int(q.qparams.zero_point) for q in run.bundle.model().quantizers().values()}

    scheme = Scheme(4, 4, 8, act_symmetry="asymmetric")
    events: list[ProgressEvent] = []
    run = tiny(digits_teacher, tmp_path / "bundle", progress=events.append, scheme=scheme)
    assert events[1].message.startswith("no graph for tensorrt: TensorRT takes only zero points")
    assert zero_points(reference) == {0}
    assert zero_points(run) - {0}
    assert not (run.bundle.path / "model.tensorrt.onnx").exists()
    recorded = run.bundle.manifest.metrics["targets"]
    assert recorded["written"] == ["onnxruntime"]
    assert "zero points of 0" in recorded["refused"]["tensorrt"]
    assert "No graph for tensorrt: " in run.result.verdict
    assert run.result.parity_top1 >= 100 * MIN_SAME_TOP1


def test_a_network_in_memory_gives_a_bundle_and_stays_as_it_is(tmp_path: Path) -> None:
    network = with_statistics(Residual()).double().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options = QuantizeOptions(
        Path("mine"), tmp_path / "bundle", input_shape=(3, 12, 12), device="cpu"
    )
    quantize(options, network=network, settings=TINY)
    assert load_bundle(tmp_path / "bundle").manifest.name == "mine"
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_the_caller_has_switched_on_in_torch_changes_nothing(tmp_path: Path) -> None:
    network = with_statistics(Residual())
    options = QuantizeOptions(
        Path("mine"), tmp_path / "plain", input_shape=(3, 12, 12), device="cpu"
    )
    quantize(options, network=network, settings=TINY)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
            quantize(replace(options, out=tmp_path / "modes"), network=network, settings=TINY)
            assert torch.zeros(1).is_meta
            assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    plain, modes = (load_bundle(tmp_path / name).manifest.files for name in ("plain", "modes"))
    assert plain["model.onnx"] == modes["model.onnx"]


def test_class_folders_are_taken_by_the_names_in_the_checkpoint(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for digit in (1, 4, 7, 8):
        shutil.copytree(digits_teacher.image_folder / str(digit), tmp_path / "x" / names[digit])
    weights = torch.export.load(digits_teacher.model_file).state_dict
    classes = {name: index for index, name in enumerate(names)}
    torch.save({"model": dict(weights), "class_to_idx": classes}, tmp_path / "model.pt")
    run = tiny(
        digits_teacher,
        tmp_path / "bundle",
        model=tmp_path / "model.pt",
        arch=f"{demo_network.__file__}:DigitNetwork",
        input_shape=(1, 8, 8),
        images=tmp_path / "x",
    )
    accuracy = run.result.teacher_accuracy
    assert accuracy is not None
    assert accuracy > 90
    assert run.result.images_remarks == (
        "class folders are taken by their names, which the model file states; "
        "4 of 10 classes have a folder",
    )
    assert run.bundle.manifest.class_names == names


def test_a_network_of_four_channels_is_measured_on_its_synthetic_images(tmp_path: Path) -> None:
    network = with_statistics(Residual(channels=4))
    options = QuantizeOptions(
        Path("four"), tmp_path / "bundle", input_shape=(4, 12, 12), device="cpu"
    )
    result = quantize(options, network=network, settings=TINY)
    assert result.parity_top1 >= 100 * MIN_SAME_TOP1
    bundle = load_bundle(tmp_path / "bundle")
    assert CLASSIFY_NAME not in bundle.manifest.files
    validate_bundle(ValidateOptions(bundle.path, count=20, reference_count=2)).require()
    with pytest.raises(ImageError, match="4 channels with --images"):
        quantize(replace(options, images=tmp_path, force=True), network=network, settings=TINY)
    assert load_bundle(tmp_path / "bundle").manifest == bundle.manifest


def test_torchscript_gives_a_student_like_that_of_its_module(tmp_path: Path) -> None:
    network = with_statistics(Residual())
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 12, 12)), tmp_path / "script.pt")
    options = QuantizeOptions(
        tmp_path / "script.pt", tmp_path / "a", input_shape=(3, 12, 12), device="cpu"
    )
    result = quantize(replace(options, trust_pickle=True), settings=TINY)
    assert result.parity_top1 >= 100 * MIN_SAME_TOP1
    quantize(replace(options, out=tmp_path / "b"), network=network, settings=TINY)
    first, second = (load_file(tmp_path / out / "student.safetensors") for out in ("a", "b"))
    assert len(first) == len(second)
    fingerprints = {load_bundle(tmp_path / out).manifest.teacher_fingerprint for out in ("a", "b")}
    assert not {fingerprint({}), ""} & fingerprints
    layers = [{n: t.shape for n, t in s.items() if n.startswith("layers")} for s in (first, second)]
    assert layers[0] == layers[1]


def test_a_network_in_memory_needs_its_input_shape(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="input_shape"):
        lrq_deploy.quantize(Residual(), out=tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
