"""From a bundle to an engine file: check, build, audit, write."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from lrq_deploy import __version__
from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.bundle.manifest import FileRecord
from lrq_deploy.export.bundle.own_graph import own_graph
from lrq_deploy.export.dialects.tensorrt import TensorRTTarget
from lrq_deploy.export.engine.build import build_engine, load_builder
from lrq_deploy.export.engine.file import EngineRecord, check_engine_output, write_engine
from lrq_deploy.export.engine.gpu_facts import built_on_gpu
from lrq_deploy.export.engine.log import audit_engine
from lrq_deploy.export.engine.options import (
    EngineKind,
    EngineOptions,
    check_batch,
    trtexec_command,
)
from lrq_deploy.export.measures.coverage import Coverage
from lrq_deploy.export.onnx_graph import finish
from lrq_deploy.export.passes.half_rest import HalfRestPass

__all__ = ["EngineResult", "build_from_bundle", "default_engine_path", "graph_of", "with_half_rest"]


@dataclass(frozen=True)
class EngineResult:
    """A written engine.

    Attributes:
        path: engine file; its record lies beside it.
        record: contents of the record.
        coverage: which layers run in INT8; ``None`` where the build log does not say.
    """

    path: Path
    record: EngineRecord
    coverage: Coverage | None


def default_engine_path(bundle: Bundle, kind: EngineKind) -> Path:
    """Where ``build`` puts an engine of that kind."""
    return bundle.beside(f".{kind}.engine")


def build_from_bundle(
    bundle: Bundle, options: EngineOptions, out: Path, force: bool = False
) -> EngineResult:
    """Build an engine for the student of a bundle.

    Raises:
        BundleError: the bundle has no graph for TensorRT.
        OutputError: ``out`` cannot be written, or is the bundle's own.
        OptionError: the builder or a GPU is missing, or no builder takes these options.
        ExportError: the build fails.
    """
    graph_path = graph_of(bundle)
    check_engine_output(out, bundle, force)
    shape = bundle.manifest.input_shape
    check_batch(options.batch.largest, shape)
    trt = load_builder(options.kind, trtexec_command(graph_path, out, shape, options))
    graph = graph_path.read_bytes()
    built = build_engine(trt, with_half_rest(graph) if options.fp16_rest else graph, shape, options)
    model = bundle.model()
    coverage = audit_engine(model, built.log, options.kind)
    record = EngineRecord(
        engine=FileRecord.of(built.data),
        graph_sha256=FileRecord.of(graph).sha256,
        network=bundle.manifest.name,
        scheme=model.scheme.describe(),
        kind=options.kind,
        versions={"lrq-deploy": __version__, options.kind: built.version},
        compute_capabilities=options.compute_capabilities,
        batch=options.batch.sizes(),
        input_shape=tuple(shape),
        workspace_mib=options.workspace_mib,
        fp16_rest=options.fp16_rest,
        audit=None if coverage is None else coverage.to_json(),
        # As build_engine sets the flag.
        tf32=options.fp16_rest,
    )
    record = built_on_gpu(record)
    write_engine(out, built.data, record, bundle, force)
    return EngineResult(out, record, coverage)


def with_half_rest(graph: bytes) -> bytes:
    """``model.tensorrt.onnx`` with what is not quantized in FP16.

    Raises:
        ExportError: the graph does not pass ``onnx.checker``.
    """
    model = ir.from_proto(onnx.load_model_from_string(graph))
    HalfRestPass()(model)
    data: bytes = finish(model, dict(model.metadata_props)).SerializeToString(deterministic=True)
    return data


def graph_of(bundle: Bundle) -> Path:
    target = TensorRTTarget()
    name = target.file_name
    if name in bundle.manifest.files:
        return own_graph(bundle, target)
    symmetry = bundle.manifest.scheme.get("act_symmetry")
    if symmetry == "asymmetric":
        raise BundleError(
            "TensorRT takes only zero points of 0, so activations must be symmetric",
            f"{bundle.path} with act_symmetry {symmetry}",
            "quantize again with --act-symmetry symmetric",
        )
    raise BundleError(
        f"an engine is built from the bundle's {name}",
        f"{bundle.path} with {', '.join(sorted(bundle.manifest.files))}",
        "quantize again with --target tensorrt",
    )
