"""What a choice of runtimes means for the integers of a student."""

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from support.small_networks import CENTRED, SHAPE, Residual, graph_of, images

from lrq_deploy.calibration.observe import calibrate
from lrq_deploy.export.measures.coverage import audit
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.parity.student import student_parity
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.targets import targets
from lrq_deploy.graph.fold_batch_norm import fold_batch_norm
from lrq_deploy.scheme import Scheme
from lrq_deploy.student.freeze import freeze
from lrq_deploy.student.frozen import QuantizedModel
from lrq_deploy.student.placement import place_quantizers

pytestmark = pytest.mark.unit


def student(request: str, scheme: Scheme) -> QuantizedModel:
    limits = targets().choose(request, scheme).limits
    placed = place_quantizers(fold_batch_norm(graph_of(Residual())), scheme, limits, CENTRED)
    calibrate(placed, images(), scheme.act_symmetry == "symmetric", seed=0)
    graph, table = freeze(placed)
    return QuantizedModel(graph, table, scheme, SHAPE, 5, CENTRED, "net", "0" * 64)


@pytest.mark.parametrize(
    ("request_", "largest"), [("auto", 127), ("all", 127), ("tensorrt", 127), ("onnxruntime", 255)]
)
def test_the_narrowest_runtime_limits_the_integers(request_: str, largest: int) -> None:
    choice = targets().choose(request_, Scheme())
    assert choice.limits.carrier_qmax == largest


def test_the_help_names_every_target() -> None:
    words = [sys.executable, "-m", "lrq_deploy", "quantize", "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"--target {'|'.join(['auto', *targets().names(), 'all'])}\n" in shown


@pytest.mark.parametrize("weight_bits", [4, 8])
def test_onnxruntime_alone_needs_no_clip_and_stays_exact(weight_bits: int) -> None:
    found: dict[str, Any] = {}
    for request in ("auto", "onnxruntime"):
        model = student(request, Scheme(weight_bits, 8, 8))
        graph = to_onnx(model).SerializeToString()
        operators = Counter(node.op_type for node in to_onnx(model).graph.node)
        parity = student_parity(model, open_session(graph), images(16, seed=5))
        assert parity.same_rows == 1
        assert audit(model, graph).share == 1
        found[request] = operators["Clip"]
        largest = max(int(layer.weight_q.abs().max()) for layer in model.layers().values())
        assert request == "auto" or largest <= 64
    assert found["onnxruntime"] == 0
    assert found["auto"] > 0
