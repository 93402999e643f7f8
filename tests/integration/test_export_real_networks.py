"""Real trained networks through capture, placement, calibration, freezing and export."""

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.bundle.folder import load_bundle, write_bundle
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import float_onnx, to_onnx
from lrq_deploy.export.parity.compare import compare
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.parity.student import student_parity
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.method.images.normalisation import check_pixels
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import frozen_model
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import place_quantizers
from lrq_deploy.target import PORTABLE
from lrq_deploy.teacher import Preprocessing, Teacher

pytestmark = pytest.mark.integration

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
NETWORKS = {
    "resnet20": ("resnet_cifar.py", (3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mobilenet_vww": ("mobilenet_vww.py", (3, 96, 96), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
SCHEMES = {
    "w4a4": Scheme(4, 4),
    "w4a8": Scheme(4, 8),
    "w2a4": Scheme(2, 4),
    "w8a8": Scheme(8, 8),
    "w8a8 asymmetric": Scheme(8, 8, act_symmetry="asymmetric"),
}


def teacher_of(name: str) -> Teacher:
    file, shape, mean, std = NETWORKS[name]
    path = SHARED / "models" / file
    if not path.exists():
        pytest.skip(f"{path} is absent")
    spec = importlib.util.spec_from_file_location("architecture", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = getattr(module, name)()
    network.load_state_dict(torch.load(path.parent / f"{name}.pt", weights_only=True))
    return make_teacher(network.eval(), shape, Preprocessing(mean, std), name, "0" * 64)


def smooth_images(teacher: Teacher, count: int, seed: int) -> Tensor:
    """Random colour gradients: not photographs, but inside the range of an image."""
    channels, height, width = teacher.input_shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 6, 6, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    mean, std = (
        torch.tensor(v).reshape(-1, 1, 1)
        for v in (teacher.preprocessing.mean, teacher.preprocessing.std)
    )
    return (torch.round(pixels * 255) / 255 - mean) / std


def student_of(teacher: Teacher, scheme: Scheme) -> QuantizedModel:
    folded = fold_batch_norm(teacher.graph)
    student = place_quantizers(folded, scheme, PORTABLE, teacher.preprocessing)
    calibrate(student, smooth_images(teacher, 32, 0), scheme.act_symmetry == "symmetric", 0)
    return frozen_model(student, scheme, teacher)


@pytest.mark.parametrize("network", NETWORKS)
def test_its_first_batch_norm_tells_how_its_pixels_were_normalised(network: str) -> None:
    teacher = teacher_of(network)
    assert check_pixels(teacher).remark == ""
    means, stds = (",".join(f"{v:g}" for v in values) for values in NETWORKS[network][2:])
    for other in (value for name, value in NETWORKS.items() if name != network):
        wrong = replace(teacher, preprocessing=Preprocessing(*other[2:]))
        assert check_pixels(wrong).remark.endswith(f"network, --mean={means} --std={stds} would")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_fused_graph_is_the_student_in_integers(network: str, scheme: str, tmp_path: Path) -> None:
    teacher = teacher_of(network)
    model = student_of(teacher, SCHEMES[scheme])
    data = to_onnx(model).SerializeToString(deterministic=True)
    images = smooth_images(teacher, 60, 1)
    parity = student_parity(model, open_session(data), images)
    assert parity.same_rows >= 0.98, parity
    coverage = audit(model, data)
    assert coverage.fallbacks == ()
    assert coverage.share == 1.0
    assert coverage.float_operators == {}
    bundle = write_bundle(tmp_path / "out", model, {"model.onnx": data}, images, 0, {}, {})
    again = load_bundle(bundle.path).model()
    assert torch.equal(exact_logits(again, images[:8]), exact_logits(model, images[:8]))
    assert to_onnx(again).SerializeToString(deterministic=True) == data


def test_float_graph_is_the_teacher_and_packed_weights_are_small() -> None:
    teacher = teacher_of("resnet20")
    data = float_onnx(teacher.graph, teacher.input_shape).SerializeToString()
    images = smooth_images(teacher, 20, 2)
    expected, found = teacher.logits(images), open_session(data).logits(images)
    assert compare(expected, found).max_diff < 1e-3
    for scheme, times in (("w4a4", 5), ("w2a4", 7)):
        packed = to_onnx(student_of(teacher, SCHEMES[scheme])).SerializeToString()
        assert len(data) / len(packed) > times


@pytest.mark.parametrize("network", NETWORKS)
def test_the_float_twin_runs_the_operators_of_the_teacher(network: str, tmp_path: Path) -> None:
    teacher = teacher_of(network)
    operators = []
    for proto in (
        float_onnx(teacher.graph, teacher.input_shape),
        float_twin(student_of(teacher, SCHEMES["w8a8"])),
    ):
        open_session(proto.SerializeToString(), optimized=tmp_path / "fused.onnx")
        nodes = onnx.load(tmp_path / "fused.onnx").graph.node
        operators.append(Counter(node.op_type for node in nodes))
    assert operators[0] == operators[1]
