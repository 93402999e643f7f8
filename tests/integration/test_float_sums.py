"""Networks that add floats between their quantizers: the integer reference knows all of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.swin_transformer import SwinTransformer

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.ladder import climb
from lrq_deploy.export.parity.reference import float_operator, reference_logits
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing

pytestmark = pytest.mark.integration

SIDE = 16


class GroupNormed(nn.Module):
    """Group normalisation, as BiT's ResNets have it, and two scales joined by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8))
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        small = self.down(x)
        size = (SIDE, SIDE)
        smooth = F.interpolate(small, size, mode="bilinear", align_corners=False)
        x = x + smooth + F.interpolate(small, size, mode="bicubic", align_corners=False)
        logits: Tensor = self.head(self.last(x).relu().mean((2, 3)))
        return logits


class CoreAten(nn.Module):
    """What ``run_decompositions`` turns into other operators, and what it has no other for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SELU())
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.CELU(), nn.MaxPool2d(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        rows = self.norm(torch.where(x > 0.1, x, x / 2).flatten(2).transpose(1, 2))
        rows = rows + F.scaled_dot_product_attention(rows, rows, rows)
        logits: Tensor = self.head(F.gelu(rows).mean(1))
        return logits


def test_the_reference_knows_core_aten() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, SIDE, SIDE) * 2 - 1
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(CoreAten().eval(), (images,), dynamic_shapes=batch)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    core = program.run_decompositions()
    teacher = make_teacher(core, (3, SIDE, SIDE), preprocessing, "it", "0" * 64)
    student = place_quantizers(
        fold_batch_norm(teacher.graph), Scheme(8, 8), PORTABLE, preprocessing
    )
    calibrate(student, images, symmetric=True, seed=0)
    model = frozen_model(student, Scheme(8, 8), teacher)
    assert float_operator(model) == "aten.native_group_norm.default"
    found = torch.from_numpy(reference_logits(model, images))
    assert compare(exact_logits(model, images), found).same_rows == 1


def vision_transformer() -> nn.Module:
    network: nn.Module = VisionTransformer(SIDE, 4, 2, 2, 16, 32, num_classes=5)
    # torchvision's head begins as zeros, which answer nothing.
    nn.init.normal_(network.get_parameter("heads.head.weight"))
    return network


def swin() -> nn.Module:
    network: nn.Module = SwinTransformer([2, 2], 16, [2], [2], [2, 2], num_classes=5)
    return network


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("build", "adds"),
    [
        (vision_transformer, "aten.layer_norm.default"),
        (swin, "aten.layer_norm.default"),
        (GroupNormed, "aten.group_norm.default"),
    ],
)
def test_the_reference_is_the_exact_student(
    build: Callable[[], nn.Module], adds: str, bits: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    teacher = make_teacher(build().eval(), (3, SIDE, SIDE), preprocessing, "it", "0" * 64)
    scheme = Scheme(bits, bits)
    folded = fold_batch_norm(teacher.graph)
    student = place_quantizers(folded, scheme, PORTABLE, preprocessing)
    images = torch.rand(24, 3, SIDE, SIDE) * 2 - 1
    calibrate(student, images, symmetric=True, seed=0)
    model = frozen_model(student, scheme, teacher)
    assert float_operator(model) == adds
    graph = tmp_path / "model.onnx"
    graph.write_bytes(to_onnx(model).SerializeToString())
    ladder = climb(model, graph, [images], reference_count=8)
    reference = ladder.rungs[1]
    assert reference.skipped == ""
    assert reference.parity is not None
    assert (reference.parity.count, reference.parity.same_rows) == (8, 1.0)
    ladder.require()
