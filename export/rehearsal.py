"""Write and run every graph once before anything is trained, so that no run fails at its end."""

from collections.abc import Sequence

from lrq_deploy.errors import ExportError
from lrq_deploy.export.bundle.student_file import student_bytes
from lrq_deploy.export.neutral import neutral_graph
from lrq_deploy.export.onnx_graph import to_onnx
from lrq_deploy.export.operator_check import check_operators
from lrq_deploy.export.runtime.session import OptimizationLevel, open_session
from lrq_deploy.export.targets import REFERENCE, Target
from lrq_deploy.graph.capture import example_input
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["rehearse"]


def rehearse(model: QuantizedModel, targets: Sequence[Target]) -> None:
    """Make the files of a bundle in memory, run each graph on one image and on more, drop them.

    The operators between quantizers are held against torch's, in float.

    Args:
        model: a student with the graph of the one to come; its numbers do not matter.
        targets: runtimes that graphs will be written for.

    Raises:
        ExportError: an operator has no ONNX form, none that ONNX Runtime executes, or one that
            computes something else.
    """
    neutral = neutral_graph(model)
    student_bytes(model)
    # A graph may have the batch of one image written in.
    batches = [example_input(model.input_shape, images) for images in (1, 3)]
    for target in targets:
        proto = to_onnx(model, target, neutral)
        try:
            # ONNX Runtime's optimiser is for its own dialect.
            level: OptimizationLevel = "all" if target.name == REFERENCE else "off"
            session = open_session(proto.SerializeToString(), level=level)
            for images in batches:
                session.logits(images)
        except ExportError as error:
            raise ExportError(
                "ONNX Runtime must execute every operator of the network",
                error.received,
                "replace the operator in the network, or report it with the network's name",
            ) from error
    check_operators(model, neutral)
