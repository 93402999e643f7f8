"""The float graph of a student computes what the teacher does, and with the same operators."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from support.small_networks import (
    CENTRED,
    SHAPE,
    Dense,
    Residual,
    images,
    placed,
    with_statistics,
)
from torch import Tensor, nn

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.bundle.student_file import read_student, student_bytes
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.operators import RECTIFIERS, is_call
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.scheme import ActSymmetry, Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.unit

Body = Callable[["Parts", Tensor], Tensor]
W8A8 = Scheme(8, 8)


class Parts(nn.Module):
    """Layers that a body joins, and a head over its eight channels ``[N, 8]``."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.layer = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.joined = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self, x))
        return logits


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def with_student(
    module: nn.Module, scheme: Scheme = W8A8, preprocessing: Preprocessing = CENTRED
) -> tuple[Teacher, QuantizedModel]:
    module = with_statistics(module)
    teacher = make_teacher(module, SHAPE, preprocessing, "net", "0" * 64, None, "multiclass")
    student = placed(module, scheme, preprocessing)
    seen = images(8) if preprocessing == CENTRED else images(8).abs()
    calibrate(student, seen, scheme.act_symmetry == "symmetric", seed=0)
    return teacher, frozen_model(student, scheme, teacher)


def clips(proto: onnx.ModelProto) -> int:
    operators = Counter(node.op_type for node in proto.graph.node)
    return operators["Relu"] + operators["Clip"]


def rectifiers(teacher: Teacher) -> int:
    return sum(is_call(node, RECTIFIERS) for node in teacher.graph.graph.nodes)


def difference(teacher: Teacher, proto: onnx.ModelProto) -> float:
    """Of the logits of unseen images, relative to the teacher's."""
    unseen = images(32, seed=9)
    wanted = teacher.logits(unseen)
    found = open_session(proto.SerializeToString()).logits(unseen)
    return float((found - wanted).norm() / wanted.norm())


BODIES: dict[str, Body] = {
    "group norm": lambda s, x: pooled(s.b(F.relu(s.group(s.a(x))))),
    "instance norm": lambda s, x: pooled(s.b(F.relu(s.instance(s.a(x))))),
    "layer norm": lambda s, x: s.narrow(s.wide(F.relu(s.layer(tokens(s.a(x)))))).mean(1),
    "linear over tokens": lambda s, x: s.narrow(F.relu(s.wide(tokens(s.a(x))))).mean(1),
    "product": lambda s, x: pooled(s.b(F.relu(s.a(x) * s.b(s.a(x))))),
    "resized": lambda s, x: pooled(
        s.b(F.relu(F.interpolate(s.a(x), scale_factor=2.0, mode="bilinear")))
    ),
    "joined": lambda s, x: pooled(s.joined(F.relu(torch.cat([s.a(x), s.b(s.a(x))], 1)))),
    "generalised mean": lambda s, x: pooled(s.group(s.a(x)).clamp(min=1e-6).pow(3)).pow(1 / 3),
    "image": lambda s, x: pooled(s.a(F.relu(x))),
    "up to 6": lambda s, x: pooled(s.b(F.relu6(s.a(x) * 20))),
    "between -1 and 1": lambda s, x: pooled(s.b(F.hardtanh(s.a(x) * 20))),
    "up to 2": lambda s, x: pooled(s.b((s.a(x) * 20).clamp(max=2.0))),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_relu_that_a_quantizer_absorbed_comes_back(body: Body) -> None:
    teacher, model = with_student(Parts(body))
    twin = float_twin(model)
    assert difference(teacher, twin) < 0.03  # weights of 8 bits
    assert clips(twin) == rectifiers(teacher) == 1


def test_limits_of_clips_are_in_the_bundle(tmp_path: Path) -> None:
    module = Parts(lambda s, x: pooled(s.b((s.a(x) * 20).clamp(0.0, 7.0).clamp(0.0, 6.0))))
    teacher, model = with_student(module)
    assert not any(is_call(node, RECTIFIERS) for node in model.graph.graph.nodes)
    path = tmp_path / "student.safetensors"
    path.write_bytes(student_bytes(model))
    again = read_student(path)
    assert student_bytes(again) == student_bytes(model)
    twin = float_twin(again)
    assert difference(teacher, twin) < 0.03
    (clip,) = (node for node in twin.graph.node if node.op_type == "Clip")
    ends = {
        t.name: float(onnx.numpy_helper.to_array(t))
        for t in twin.graph.initializer[:]
        if t.name in clip.input
    }
    assert [ends[name] for name in clip.input[1:]] == [0.0, 6.0]


@pytest.mark.parametrize(
    ("network", "symmetry"),
    [(Residual, "symmetric"), (Residual, "asymmetric"), (Dense, "symmetric")],
)
def test_no_relu_is_added_to_an_ordinary_network(
    network: Callable[[], nn.Module], symmetry: ActSymmetry
) -> None:
    teacher, model = with_student(network(), Scheme(8, 8, act_symmetry=symmetry))
    assert clips(float_twin(model)) == rectifiers(teacher) > 0


CURVES: tuple[Callable[[Tensor], Tensor], ...] = (
    F.silu,
    F.gelu,
    F.mish,
    F.hardswish,
    F.leaky_relu,
    lambda x: x * torch.sigmoid(x),
    lambda x: x * torch.sigmoid(1.702 * x),
)


def test_a_curve_whose_dip_is_less_than_half_a_step_is_not_rectified() -> None:
    coarse = Scheme(4, 4, edge_bits=None, residual_bits=None)
    module = Parts(
        lambda s, x: torch.stack([pooled(s.b(curve(s.a(x) * 4))) for curve in CURVES]).sum(0)
    )
    _, model = with_student(module, coarse)
    unsigned = [q for q in model.quantizers().values() if q.qparams.qmin == 0]
    assert len(unsigned) >= len(CURVES)
    assert clips(float_twin(model)) == 0


def test_images_without_negative_values_are_not_rectified() -> None:
    positive = Preprocessing((0.0,) * 3, (1.0,) * 3)
    module = Parts(lambda s, x: pooled(s.a(F.max_pool2d(x, 2))))
    _, model = with_student(module, preprocessing=positive)
    assert next(iter(model.quantizers().values())).qparams.qmin == 0
    assert clips(float_twin(model)) == 0
