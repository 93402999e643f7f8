"""The table of networks: which are captured, what runs in integers, and whether it agrees.

Usage: ``python benchmarks/zoo.py [--out runs/zoo.md] [--size N] [NAME ...]``. Weights are random,
BatchNorm statistics come from one training-mode forward of noise; nothing is downloaded.
"""

import argparse
import ast
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.errors import LrqError
from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.student import student_parity
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze, frozen_model
from lrq_deploy.student.layers import set_enabled
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing, Teacher

IMAGES = 8
PREPROCESSING = Preprocessing((0.5,) * 3, (0.5,) * 3)

SIZES = {"torchvision:inception_v3": 299, "torchvision:vit_b_16": 224}
"""Sides in pixels where 224 is not usual, or not a choice."""

TORCHVISION = (
    "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 vgg11_bn densenet121 googlenet inception_v3 "
    "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x0_5 shufflenet_v2_x1_0 "
    "mnasnet0_5 efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf squeezenet1_0 "
    "convnext_tiny vit_b_16"
)
TIMM = (
    "mobilenetv3_small_050 tf_efficientnet_lite0 ghostnet_100 repvgg_a0 repvgg_a0+deployed "
    "hardcorenas_a mixnet_s resnet10t lcnet_050 edgenext_xx_small edgenext_small_rw"
)
NAMES = [f"torchvision:{n}" for n in TORCHVISION.split()] + [f"timm:{n}" for n in TIMM.split()]

HEADER = (
    "| network | side | captured | layers | multiply-adds in integers | same top-1 | "
    "same rows | largest difference | seconds |\n|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: ``torchvision:NAME``, ``timm:NAME`` or ``transformers:NAME`` (of ``NAMEConfig``);
            ``+deployed`` is re-parameterised, and ``?depth=2&embed_dim=64`` are arguments of its
            constructor or configuration.
        size: side of the images in pixels.
        refusal: rule and finding of the error, empty where it was captured.
        layers: weighted layers, all of them quantized.
        share: of the multiply-adds that ONNX Runtime computes in integers, 0..1.
        fold_error, float_error: largest difference to the teacher's logits after folding and of
            the student without quantization, relative to the largest logit.
        frozen_equal: whether the frozen graph has the bits of the student.
        same_top1, same_rows: share of images, ONNX Runtime against the exact student.
        difference: largest difference of a logit, relative to the largest logit.
        seconds: wall time.
    """

    name: str
    size: int
    refusal: str = ""
    layers: int = 0
    share: float = 0.0
    fold_error: float = 0.0
    float_error: float = 0.0
    frozen_equal: bool = False
    same_top1: float = 0.0
    same_rows: float = 0.0
    difference: float = 0.0
    seconds: float = 0.0

    def markdown(self) -> str:
        """A line of the table."""
        if self.refusal:
            return f"| {self.name} | {self.size} | refused: {self.refusal} | | | | | | |"
        return (
            f"| {self.name} | {self.size} | yes | {self.layers} | {100 * self.share:.1f} % | "
            f"{100 * self.same_top1:.0f} % | {100 * self.same_rows:.0f} % | "
            f"{self.difference:.0e} | {self.seconds:.0f} |"
        )


def build(name: str, size: int) -> nn.Module:
    """The network with random weights and the statistics of noise, in evaluation mode."""
    torch.manual_seed(0)
    family, _, key = name.partition(":")
    key, _, deployed = key.partition("+")
    key, _, arguments = key.partition("?")
    pairs = (pair.split("=", 1) for pair in arguments.split("&") if pair)
    module = _create(family, key, {k: ast.literal_eval(v) for k, v in pairs}).train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None
        elif isinstance(part, nn.Linear) and not part.weight.any():
            # Transformers start with a head of zeros, which answers nothing.
            nn.init.normal_(part.weight, std=0.02)
    with torch.no_grad():
        module(torch.randn(4, 3, size, size))
    module.eval()
    if deployed:
        from timm.utils.model import reparameterize_model

        module = reparameterize_model(module)
    return module


def _create(family: str, key: str, options: dict[str, Any]) -> nn.Module:
    if family == "timm":
        import timm

        created: nn.Module = timm.create_model(key, pretrained=False, **options)
        return created
    if family == "transformers":
        import transformers

        config = getattr(transformers, f"{key}Config")(**options)
        classifier: nn.Module = getattr(transformers, f"{key}ForImageClassification")(config)
        return classifier
    import torchvision

    if key in ("googlenet", "inception_v3"):
        options = {"init_weights": False, **options}
    network: nn.Module = torchvision.models.get_model(key, weights=None, **options)
    return network


def measure(name: str, size: int, bits: int = 8) -> Row:
    """Take a network from its module to a checked ONNX graph."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = build(name, size)
            teacher = make_teacher(module, (3, size, size), PREPROCESSING, name, "0" * 64)
        except LrqError as error:
            return Row(name, size, f"{error.rule}; got {error.received}")
        return _quantize(teacher, Scheme(bits, bits, 8), start)


def _quantize(teacher: Teacher, scheme: Scheme, start: float) -> Row:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, *teacher.input_shape, generator=random) * 2 - 1
    expected = teacher.logits(x)
    largest = float(expected.abs().max())
    folded = fold_batch_norm(teacher.graph)
    student = place_quantizers(folded, scheme, PORTABLE, PREPROCESSING)
    with torch.no_grad():
        fold_error = float((folded(x) - expected).abs().max()) / largest
        set_enabled(student, False)
        float_error = float((student(x) - expected).abs().max()) / largest
        calibrate(student, x, symmetric=True, seed=0)
        trained = student(x)
        frozen_equal = torch.equal(freeze(student, nudge=False)[0](x), trained)
    model = frozen_model(student, scheme, teacher)
    data = to_onnx(model).SerializeToString()
    coverage = audit(model, data)
    parity = student_parity(model, open_session(data), x, strict=False)
    return Row(
        name=teacher.name,
        size=teacher.input_shape[1],
        layers=len(coverage.layers),
        share=coverage.share,
        fold_error=fold_error,
        float_error=float_error,
        frozen_equal=frozen_equal,
        same_top1=parity.same_top1,
        same_rows=parity.same_rows,
        difference=parity.max_diff / float(trained.abs().max()),
        seconds=time.perf_counter() - start,
    )


def main() -> None:
    """Measure the named networks, all by default, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--bits", type=int, default=8)
    options = parser.parse_args()
    lines = [HEADER]
    print(HEADER, flush=True)
    for name in options.names:
        line = measure(name, SIZES.get(name, options.size), options.bits).markdown()
        print(line, flush=True)
        lines.append(line)
        if options.out:
            options.out.write_text(introduction(options.bits) + "\n".join(lines) + "\n")


def introduction(bits: int) -> str:
    """What the table says, and how it was made."""
    return f"""# A run of the zoo

Written by `python benchmarks/zoo.py --out runs/zoo.md` (torch {torch.__version__}, CPU).
W{bits}A{bits}, random weights, BatchNorm statistics of noise, calibrated on {IMAGES} noise images.
"Same top-1", "same rows" and "largest difference" (relative to the largest logit) compare ONNX
Runtime, all optimisations on, with the exactly evaluated student on those images.

"""


if __name__ == "__main__":
    main()
