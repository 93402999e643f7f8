"""Whether an ONNX file is the graph of a given bundle, told from what the file says of itself."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import uses_external_data

from lrq_deploy.errors import BundleError
from lrq_deploy.export.onnx_graph import ONNX_SCHEMA

__all__ = ["check_graph"]


def check_graph(path: Path, target: str, teacher_fingerprint: str) -> None:
    """Check that a file is the graph of one student for one target.

    Args:
        path: the file.
        target: name of the dialect that it must be written in.
        teacher_fingerprint: of the bundle that it must belong to.

    Raises:
        BundleError: no ONNX file, not written by lrq-deploy, of another schema, for another
            target, of another network, with other inputs or outputs, or with weights elsewhere.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError, ValueError) as error:
        raise _refused(path, f"{path.name} is no ONNX file ({type(error).__name__})") from error
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
    if told.get("lrq_target") != target:
        raise _refused(path, f"one for the target {told.get('lrq_target')!r}, not {target!r}")
    if told.get("lrq_teacher_fingerprint") != teacher_fingerprint:
        raise _refused(path, "one of another network")
    ends = [[value.name for value in side] for side in (proto.graph.input, proto.graph.output)]
    if ends != [["input"], ["logits"]]:
        raise _refused(path, "one of other inputs or outputs")
    attributes = (attribute for node in proto.graph.node for attribute in node.attribute)
    tensors = (*proto.graph.initializer, *(attribute.t for attribute in attributes))
    if any(map(uses_external_data, tensors)):
        raise _refused(path, "one with weights in files that the bundle does not vouch for")


def _refused(path: Path, received: str) -> BundleError:
    return BundleError(
        f"{path.name} must be the graph that lrq-deploy wrote for this bundle",
        received,
        "get the bundle again from where it was made",
    )
