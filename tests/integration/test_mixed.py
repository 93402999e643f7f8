"""``--bits mixed``: widths per layer within a size, in every file of the bundle."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from support.small_networks import conv_bn, with_statistics
from support.tiny_run import TINY
from torch import Tensor, nn

from lrq_deploy.cli import main
from lrq_deploy.cli.commands.demo_network import TrainedDigits
from lrq_deploy.cli.job import pipeline
from lrq_deploy.cli.job.mixed_widths import MEGABYTE, FileSizes, file_sizes
from lrq_deploy.cli.job.pipeline import quantize
from lrq_deploy.cli.job.preparing import load_teacher
from lrq_deploy.errors import OptionError
from lrq_deploy.export.bundle.folder import load_bundle
from lrq_deploy.export.targets import targets
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.scheme import LayerBits, Scheme
from lrq_deploy.target import PORTABLE

pytestmark = pytest.mark.integration


def digits_options(teacher: TrainedDigits, folder: Path) -> QuantizeOptions:
    return QuantizeOptions(
        teacher.model_file,
        folder / "bundle",
        Scheme(8, 8, None),
        device="cpu",
        bench=False,
        target_size=1.0,
    )


def test_a_mixed_bundle_keeps_its_size_and_passes_every_rung(
    digits_teacher: TrainedDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = digits_options(digits_teacher, tmp_path)
    sizes = file_sizes(load_teacher(options), options, PORTABLE)
    target = (sizes.smallest + sizes.largest) / 2 / MEGABYTE
    result = quantize(replace(options, target_size=target), settings=TINY)
    bundle = load_bundle(result.bundle_path)
    assert 0.8 * target * MEGABYTE < bundle.file("model.onnx").stat().st_size <= target * MEGABYTE

    model = bundle.model()
    widths = {own.layer: own.weight_bits for own in model.scheme.layer_bits}
    assert set(widths.values()) == {4, 8}
    assert {name: layer.qparams.bits for name, layer in model.layers().items()} == widths
    for name, layer in model.layers().items():
        assert (int(layer.weight_q.abs().max()) > 8) == (widths[name] == 8)
    assert Scheme.from_json(bundle.manifest.scheme) == model.scheme
    assert "mixed" in result.scheme
    entries = json.loads(bundle.file("sensitivity.json").read_text())["entries"]
    assert {entry["name"] for entry in entries if entry["kind"] == "weight"} == set(widths)
    assert bundle.file("sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert bundle.file("model.tensorrt.onnx").exists()
    assert result.parity_top1 == 100.0

    monkeypatch.setattr(sys, "argv", ["lrq-deploy", "validate", str(result.bundle_path)])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == 0


class Gated(nn.Module):
    """A hard-swish behind each of five layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.inner = nn.ModuleList(conv_bn(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        for layer in self.inner:
            x = F.hardswish(layer(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("target", ["auto", "onnxruntime"])
def test_a_size_is_kept_whatever_form_a_hard_swish_takes(
    tmp_path: Path, symmetry: Any, target: str
) -> None:
    options = QuantizeOptions(
        Path("gated"),
        tmp_path / "bundle",
        Scheme(8, 8, None, act_symmetry=symmetry),
        input_shape=(3, 12, 12),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        device="cpu",
        bench=False,
        target=target,
        target_size=1.0,
    )
    network = with_statistics(Gated())
    limits = targets().choose(target, options.scheme).limits
    sizes = file_sizes(load_teacher(options, network), options, limits)
    target_size = (sizes.smallest + 600) / MEGABYTE
    quantize(replace(options, target_size=target_size), network=network, settings=TINY)
    assert (tmp_path / "bundle" / "model.onnx").stat().st_size <= target_size * MEGABYTE


def test_a_size_out_of_reach_is_refused_before_training(
    digits_teacher: TrainedDigits, tmp_path: Path
) -> None:
    options = QuantizeOptions(
        digits_teacher.model_file, tmp_path / "b", Scheme(8, 8), device="cpu", target_size=0.001
    )
    with pytest.raises(OptionError, match=r"--target-size must be at least .* MB") as caught:
        quantize(options, settings=TINY)
    assert "--edge-bits same" in caught.value.remedy
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("size", [36_001, 36_499, 1_001_000])
def test_the_smallest_size_that_is_stated_is_accepted(
    digits_teacher: TrainedDigits, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    options = QuantizeOptions(
        digits_teacher.model_file, Path("b"), Scheme(8, 8), device="cpu", target_size=0.001
    )
    teacher = load_teacher(options)
    monkeypatch.setattr(FileSizes, "smallest", size)
    with pytest.raises(OptionError, match="--target-size must be at least") as caught:
        file_sizes(teacher, options, PORTABLE)
    (stated,) = re.findall(r"at least (\S+) MB", caught.value.rule)
    assert size <= round(float(stated) * MEGABYTE) < size + 1000
    file_sizes(teacher, replace(options, target_size=float(stated)), PORTABLE)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--bits", "mixed"), "needs a target"),
        (("--bits", "4", "--target-size", "1"), "is for --bits mixed"),
        (("--weight-bits", "4", "--act-bits", "4", "--target-size", "1"), "received: no --bits"),
        (("--bits", "mixed", "--target-size", "1", "--weight-bits", "4"), "drop --weight-bits"),
        (("--bits", "mixed", "--target-size", "-1"), "above 0 MB"),
        (("--bits", "some"), "or 'mixed'"),
    ],
)
def test_flags_that_contradict_are_bad_input(
    flags: tuple[str, ...],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["lrq-deploy", "quantize", "none.pt", *flags])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == main.EXIT_INPUT
    assert part in capsys.readouterr().err


def test_a_layer_has_one_width() -> None:
    with pytest.raises(OptionError, match="each layer once"):
        Scheme(layer_bits=(LayerBits("layers.a", 4), LayerBits("layers.a", 8)))
    with pytest.raises(OptionError, match=r"2\.\.8"):
        LayerBits("layers.a", 9)


def test_a_size_that_is_not_kept_is_told(
    digits_teacher: TrainedDigits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = digits_options(digits_teacher, tmp_path)
    teacher = load_teacher(options)
    real = file_sizes(teacher, options, PORTABLE)
    fewer = FileSizes(real.fixed_bytes - 3000, real.narrow_bytes, real.wide_bytes)
    monkeypatch.setattr(pipeline, "file_sizes", lambda *given: fewer)
    result = quantize(replace(options, target_size=fewer.smallest / MEGABYTE), settings=TINY)
    (said,) = (remark for remark in result.model_remarks if "--target-size" in remark)
    over = int(said.partition("takes ")[2].split()[0])
    size = load_bundle(result.bundle_path).file("model.onnx").stat().st_size
    assert over == size - fewer.smallest > 0
