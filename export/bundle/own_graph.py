"""Whether an ONNX file is the graph that it should be, told from what the file says of itself."""

import re
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data

from lrq_deploy.errors import BundleError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.onnx_graph import ONNX_SCHEMA
from lrq_deploy.export.targets import Target

__all__ = ["check_float_graph", "own_graph"]

_QUANTIZED = re.compile(r"[Qq]uantize|^QLinear|^QAttention|Integer|NBits")
"""Operators of quantized graphs, of ONNX and of ONNX Runtime."""


def own_graph(bundle: Bundle, target: Target) -> Path:
    """Path of a bundle's graph for a target, once it is known to be of that student and target.

    Raises:
        BundleError: the bundle has none; or it is no ONNX file, not written by lrq-deploy, of
            another schema, for another target, of another network, with other inputs or outputs,
            or with weights elsewhere.
    """
    path = bundle.file(target.file_name)
    try:
        proto = _loaded(path)
    except ValueError as error:
        raise _refused(path, str(error)) from error
    told = {entry.key: entry.value for entry in proto.metadata_props}
    if proto.producer_name != "lrq-deploy":
        raise _refused(path, f"one of {proto.producer_name or 'an unknown producer'}")
    if "lrq_schema_version" not in told:
        raise _refused(path, "one that something has changed since: it tells no lrq_schema_version")
    if told["lrq_schema_version"] != str(ONNX_SCHEMA):
        raise BundleError(
            f"lrq_schema_version of a graph must be {ONNX_SCHEMA}",
            f"{told['lrq_schema_version']} in {path}",
            "use the lrq-deploy version that wrote the bundle, or a newer one",
        )
    if told.get("lrq_target") != target.name:
        found = told.get("lrq_target")
        raise _refused(path, f"one for the target {found!r}, not {target.name!r}")
    if told.get("lrq_teacher_fingerprint") != bundle.manifest.teacher_fingerprint:
        raise _refused(path, "one of another network")
    ends = [[value.name for value in side] for side in (proto.graph.input, proto.graph.output)]
    if ends != [["input"], ["logits"]]:
        raise _refused(path, "one of other inputs or outputs")
    attributes = (attribute for node in proto.graph.node for attribute in node.attribute)
    tensors = (*proto.graph.initializer, *(attribute.t for attribute in attributes))
    if any(map(uses_external_data, tensors)):
        raise _refused(path, "one with weights in files that the bundle does not vouch for")
    return path


def check_float_graph(path: Path) -> None:
    """Check that a file is an ONNX graph without integers, to be compared with.

    Raises:
        BundleError: no ONNX file, or a quantized graph.
    """
    rule, remedy = "--float must name a float ONNX file", "check the path, or leave it out"
    try:
        proto = _loaded(path)
    except ValueError as error:
        raise BundleError(rule, str(error), remedy) from error
    quantized = sorted(
        {node.op_type for node in proto.graph.node if _QUANTIZED.search(node.op_type)}
    )
    if quantized:
        received = f"{path}, a quantized graph, which has {', '.join(quantized)}"
        raise BundleError(rule, received, "pass the graph that it was made of, or leave it out")


def _loaded(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise ValueError(f"{path}, which is no file")
    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise ValueError(f"{path} is no ONNX file ({type(error).__name__})") from error


def _refused(path: Path, received: str) -> BundleError:
    return BundleError(
        f"{path.name} must be the graph that lrq-deploy wrote for this bundle",
        received,
        "get the bundle again from where it was made",
    )
