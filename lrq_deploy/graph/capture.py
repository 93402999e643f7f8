"""Capture a network once, as a functional ATen graph in evaluation mode."""

import copy
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError
from lrq_deploy.graph.normalize import normalize

__all__ = ["capture", "example_input"]

aten = torch.ops.aten


def example_input(input_shape: tuple[int, int, int], batch: int = 2) -> Tensor:
    """Deterministic normalised noise ``[batch, C, H, W]`` for tracing and shape checks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *input_shape, generator=generator)


def capture(
    program: nn.Module | ExportedProgram, input_shape: tuple[int, int, int]
) -> fx.GraphModule:
    """Trace ``program`` with a dynamic batch into a normalised functional graph.

    Returns:
        A graph with one placeholder ``input`` ``[N, C, H, W]`` and one output
        ``[N, classes]``; parameters do not require gradients.

    Raises:
        CaptureError: tracing fails, or the program cannot run at ``input_shape``.
        UnsupportedNetworkError: the network has several inputs or no ``[N, classes]`` output.
    """
    exported = program if isinstance(program, ExportedProgram) else _export(program, input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = exported.run_decompositions({}).module(check_guards=False)
    graph_module = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    graph_module.requires_grad_(False)
    _check_signature(graph_module)
    normalize(graph_module)
    _check_output(graph_module, input_shape)
    return graph_module


def _export(module: nn.Module, input_shape: tuple[int, int, int]) -> ExportedProgram:
    module = module.eval()
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(
                module, (example_input(input_shape),), dynamic_shapes=({0: batch},), strict=False
            )
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise CaptureError(
            "the network must be capturable by torch.export with a dynamic batch",
            _first_line(error),
            "edit the named construct, or pass a torch.export archive made in your own code",
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _check_signature(graph_module: fx.GraphModule) -> None:
    inputs = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        names = ", ".join(n.name for n in inputs)
        raise UnsupportedNetworkError(
            "the network must have exactly one input, an image",
            f"{len(inputs)} inputs ({names})",
            "wrap it in a module that fixes the other inputs",
        )
    inputs[0].name = "input"
    inputs[0].target = "input"
    outputs = _flatten(graph_module.graph.output_node().args[0])
    if len(outputs) != 1:
        raise UnsupportedNetworkError(
            "the network must return one tensor of logits",
            f"{len(outputs)} outputs",
            "wrap it in a module that returns only the logits",
        )
    graph_module.graph.output_node().args = (outputs[0],)
    graph_module.graph._codegen = fx.graph.CodeGen()
    _make_batch_symbolic(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flatten(item)]
    return [value]


def _make_batch_symbolic(graph_module: fx.GraphModule) -> None:
    """Turn views into reshapes with -1 for the batch, so that any batch and layout runs.

    A static archive has its example batch as a constant; a dynamic one a ``sym_size`` node.
    """
    source = next(n for n in graph_module.graph.nodes if n.op == "placeholder")
    value = source.meta.get("val")
    static = value.shape[0] if value is not None and isinstance(value.shape[0], int) else None
    views = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and node.target in views:
            node.target = aten.reshape.default
            shape = list(_iterate(node.args[1]))
            first = shape[0] if shape else None
            symbolic = isinstance(first, fx.Node) and first.target is aten.sym_size.int
            is_batch = symbolic or (static is not None and first == static)
            if is_batch and -1 not in shape:
                node.args = (node.args[0], [-1, *shape[1:]])


def _iterate(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _check_output(graph_module: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    for batch in (2, 3):
        try:
            with torch.no_grad():
                logits = graph_module(example_input(input_shape, batch))
        except RuntimeError as error:
            raise CaptureError(
                f"the network must run on a batch of images of shape {input_shape}",
                _first_line(error),
                "check --input-shape, or export the archive with a dynamic batch",
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[0] != batch:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UnsupportedNetworkError(
                "the network must return logits [N, classes]",
                f"{shape} for a batch of {batch}",
                "detection and segmentation heads are not supported; wrap a classifier",
            )
        if logits.shape[1] < 2:
            raise UnsupportedNetworkError(
                "the network must have at least 2 classes",
                f"{logits.shape[1]} logit",
                "turn a single logit z into the two logits (0, z)",
            )


def call_targets(graph_module: fx.GraphModule) -> set[Any]:
    """All functions that the graph calls."""
    skip = {operator.getitem}
    nodes = graph_module.graph.nodes
    return {n.target for n in nodes if n.op == "call_function" and n.target not in skip}
