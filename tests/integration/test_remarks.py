"""What a run says of pixels and labels that do not fit the network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.small_networks import with_statistics
from support.tiny_run import tiny
from torch import nn

from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.progress import ProgressEvent
from lrq_deploy.scheme import Scheme

pytestmark = pytest.mark.integration

ARCH_FILE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
"""


def test_pixels_that_do_not_fit_are_told_before_training_and_in_the_end(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    events: list[ProgressEvent] = []
    out = tmp_path / "bundle"
    run = tiny(digits_teacher, out, progress=events.append, mean=(0.0,), std=(0.004,))
    (remark,) = run.result.model_remarks
    assert remark == (
        "--mean=0 --std=0.004 do not fit the first BatchNorm of the network, --mean=0 --std=1 would"
    )
    assert run.bundle.manifest.metrics["model_remarks"] == [remark]
    assert run.result.fitting is not None
    assert (run.result.fitting.mean, run.result.fitting.std) == ((0.0,), (1.0,))
    told = [event.message for event in events].index(remark)
    assert events[told].stage == "load"
    assert "generator" not in {event.stage for event in events[:told]}


def test_labels_in_another_order_than_the_logits_are_not_judged(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    images = tmp_path / "digits"
    images.mkdir()
    for folder in digits_teacher.image_folder.iterdir():
        (images / str((int(folder.name) + 1) % 10)).symlink_to(folder)
    run = tiny(digits_teacher, tmp_path / "bundle", images=images)
    assert not run.result.labelled
    assert run.result.images_source == "folder"
    (remark,) = run.result.images_remarks
    assert "of 450 labelled images, and chance gives 10.0 %: labels are left out" in remark
    assert "images, your images (limit 95 %)" in run.result.verdict
    assert run.result.verdict.startswith("the float network is right on ")
    assert (run.result.ship, run.result.told) == (False, False)
    kept = run.bundle.manifest.metrics["verdict"]
    assert (kept["ship"], kept["headline"]) == (False, run.result.headline)
    assert kept["sentence"] == run.result.verdict
    assert run.bundle.manifest.metrics["images_remarks"] == [remark]


def test_averaged_weights_beside_are_told(digits_teacher: TrainedDigits, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    factory: dict[str, Callable[[], nn.Module]] = {}
    exec(ARCH_FILE, factory)
    state = with_statistics(factory["build"]()).state_dict()
    model, arch = tmp_path / "both.pt", tmp_path / "net.py"
    torch.save({"model": state, "ema": state}, model)
    arch.write_text(ARCH_FILE, encoding="utf-8")
    run = tiny(
        digits_teacher,
        tmp_path / "bundle",
        progress=events.append,
        model=model,
        arch=f"{arch}:build",
        input_shape=(1, 8, 8),
        mean=(0.5,),
        std=(0.25,),
    )
    remark = run.result.model_remarks[0]
    assert remark.startswith("averaged weights lie under ema beside those that are read")
    assert remark in [event.message for event in events]
    assert remark in run.bundle.manifest.metrics["model_remarks"]


def test_options_that_find_no_layer_are_told(digits_teacher: TrainedDigits, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    scheme = Scheme(4, 4, depthwise="float", int4_linear=True)
    run = tiny(digits_teacher, tmp_path / "bundle", progress=events.append, scheme=scheme)
    remarks = run.result.model_remarks[-2:]
    starts = [remark.partition(" changes no layer: ")[0] for remark in remarks]
    assert starts == ["--depthwise float", "--int4-linear"]
    assert run.bundle.manifest.metrics["model_remarks"][-2:] == list(remarks)
    told = [event for event in events if event.message in remarks]
    assert {event.stage for event in told} == {"rehearse"}
    fused = next(x for x in run.bundle.manifest.metrics["ladder"] if x["name"] == "onnxruntime-all")
    assert fused["bound"]["same_rows"] == 0.99
    assert (run.result.needs_onnxruntime, run.result.oldest_onnxruntime) == ("1.23", "1.19")


def test_an_option_that_finds_no_layer_asks_for_no_later_onnxruntime(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    run = tiny(digits_teacher, tmp_path / "bundle", scheme=Scheme(8, 8, int4_linear=True))
    assert (run.result.needs_onnxruntime, run.result.oldest_onnxruntime) == ("1.18", "1.18")
