"""From a loaded network to a Teacher."""

from torch import nn
from torch.export import ExportedProgram

from lrq_deploy.graph.capture import capture, example_input
from lrq_deploy.task import Task
from lrq_deploy.teacher import Preprocessing, Teacher

__all__ = ["make_teacher"]


def make_teacher(
    program: nn.Module | ExportedProgram,
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing,
    name: str,
    fingerprint: str = "",
    output: str | None = None,
    task: Task = "multiclass",
) -> Teacher:
    """Capture a network and describe it; see ``capture`` for ``output``, ``task``, the errors."""
    graph = capture(program, input_shape, output, task)
    logits = graph(example_input(input_shape))
    classes = int(logits.shape[1])
    return Teacher(graph, input_shape, classes, preprocessing, name, fingerprint, task)
