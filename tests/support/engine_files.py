"""Engine files that are none, with records like those of ``build``."""

from pathlib import Path
from typing import Any

from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.engine.file import EngineRecord, write_engine
from lrq_deploy.export.engine.options import EngineKind
from support.fake_tensorrt import VERSION

__all__ = ["write_engine_of"]


def write_engine_of(
    bundle: Bundle,
    path: Path,
    kind: EngineKind,
    data: bytes = b"engine",
    version: str = VERSION,
    **changed: Any,
) -> None:
    """Write an engine for compute capability 89, with some of its record changed."""
    stated: dict[str, Any] = {
        "engine": FileRecord.of(data),
        "graph_sha256": bundle.manifest.files["model.tensorrt.onnx"].sha256,
        "network": bundle.manifest.name,
        "scheme": "W8A8",
        "kind": kind,
        "versions": {kind: version},
        "compute_capabilities": (89,),
        "batch": (1, 4, 16),
        "input_shape": tuple(bundle.manifest.input_shape),
        "workspace_mib": None,
        "fp16_rest": False,
        "audit": None,
    }
    write_engine(path, data, EngineRecord(**stated | changed), bundle, force=True)
