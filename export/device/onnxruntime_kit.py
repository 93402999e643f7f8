"""A device with ONNX Runtime and numpy alone, which runs and times both graphs by ``run.py``."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.own_graph import own_graph
from lrq_deploy.export.derived.older_runtime import graph_for_runtime
from lrq_deploy.export.device.check import CheckRuns
from lrq_deploy.export.device.folder import Contents, check_runs
from lrq_deploy.export.dialects.onnxruntime import OnnxRuntimeTarget, oldest_version
from lrq_deploy.export.engine.options import BatchProfile
from lrq_deploy.export.float_twin import float_twin
from lrq_deploy.export.runtime import run
from lrq_deploy.export.runtime.session import open_session
from lrq_deploy.export.runtime.version import RuntimeVersion, needed_version, version_text
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["OnnxRuntimeKit"]

_MOST_IMAGES = 64


@dataclass(frozen=True)
class OnnxRuntimeKit:
    """The integer graph, the float one and ``run.py``.

    Attributes:
        version: of ONNX Runtime on the device; None takes ``model.onnx`` as it is.
    """

    version: RuntimeVersion | None = None
    runtime: str = "onnxruntime"

    def graph(self, bundle: Bundle) -> str:
        """Every bundle has it."""
        return own_graph(bundle, OnnxRuntimeTarget()).name

    def runs(self, input_shape: tuple[int, ...]) -> CheckRuns:
        """One file, of which images run one by one."""
        return CheckRuns(check_runs(BatchProfile(1, 1, _MOST_IMAGES), input_shape).size, 1)

    def contents(
        self, bundle: Bundle, model: QuantizedModel, runs: CheckRuns, images: Tensor
    ) -> Contents:
        """Both graphs, the script, and what ONNX Runtime answers here.

        Raises:
            OptionError: a layer has no form that the version knows.
            ExportError: the older form does not give the bits of ``model.onnx``.
        """
        shipped = bundle.file(run.GRAPH_NAME).read_bytes()
        graph = shipped if self.version is None else graph_for_runtime(bundle, self.version)
        session = open_session(graph)
        here = torch.cat([session.logits(image) for image in images.split(1)])
        needed = needed_version(onnx.load_model_from_string(graph).graph)
        files = {
            run.GRAPH_NAME: graph,
            run.FLOAT_NAME: float_twin(model).SerializeToString(deterministic=True),
            "run.py": Path(run.__file__).read_bytes(),
        }
        about = {
            "needs_onnxruntime": version_text(needed),
            "oldest_onnxruntime": version_text(oldest_version(model.scheme)),
        }
        return Contents(files, about, here)
