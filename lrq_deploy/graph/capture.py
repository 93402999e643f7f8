"""Capture a network once, as a functional ATen graph in evaluation mode."""

import copy
import inspect
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from lrq_deploy.errors import CaptureError, UnsupportedNetworkError
from lrq_deploy.graph.any_batch import take_any_batch
from lrq_deploy.graph.batch_decision import with_its_line
from lrq_deploy.graph.capture_errors import (
    is_of_the_network,
    of_archive,
    refuse_boxes,
    refuse_branches,
    refuse_script_parts,
    shortened,
)
from lrq_deploy.graph.keyword_names import rename_keywords
from lrq_deploy.graph.logits import (
    check_alone,
    check_rows,
    check_unmasked,
    drop_idle_moves,
    make_rows,
)
from lrq_deploy.graph.normalize import normalize
from lrq_deploy.graph.outputs import pick_output, take_off_probabilities
from lrq_deploy.graph.scripted import ScriptedNetwork
from lrq_deploy.task import Task

__all__ = ["capture", "example_input"]

_NETWORK_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a network's own code, or the tracer on its behalf, raises."""

_VIOLATED = "Constraints violated"
"""How the error of a network begins that does not take any batch; it names no line."""

_TOLD = "RuntimeError: "

_UNLIKELY_BATCHES = (7, 5)
"""Tell the batch of a static trace from other sizes."""

_OTHER_FLOATS = re.compile(r"\b(Half|BFloat16|[Dd]ouble|b?float16|float64)\b")
"""A type in an error of torch that no weight has: networks are read as float32."""

_TAKEN_NAMES = set(dir(fx.GraphModule({}, fx.Graph()))) - set(dir(nn.Module()))
"""Of a graph module (``graph``, ``code``, ``meta``); torch loses what is stored under them."""


def example_input(input_shape: tuple[int, int, int], batch: int = 2) -> Tensor:
    """Deterministic normalised noise ``[batch, C, H, W]`` for tracing and shape checks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *input_shape, generator=generator)


def capture(
    program: nn.Module | ExportedProgram,
    input_shape: tuple[int, int, int],
    output: str | None = None,
    task: Task = "multiclass",
) -> fx.GraphModule:
    """Trace ``program`` with a dynamic batch into a normalised functional graph.

    Args:
        program: the network.
        input_shape: ``(C, H, W)``.
        output: which tensor of its result holds the logits, see ``pick_output``.
        task: what the logits mean; a softmax or sigmoid that ends the network is taken off.

    Returns:
        A graph with one placeholder ``input`` ``[N, C, H, W]`` and one output
        ``[N, classes]``; parameters do not require gradients.

    Raises:
        CaptureError: tracing fails, or the program cannot run at ``input_shape``.
        UnsupportedNetworkError: the network has several inputs or no ``[N, classes]`` output.
        OptionError: it returns nothing called ``output``.
    """
    if isinstance(program, ExportedProgram):
        try:
            return _captured(program, input_shape, output, task)
        except UnsupportedNetworkError as error:
            raise of_archive(error) from error
    try:
        exported = _export(program, input_shape)
    except CaptureError as error:
        if not str(error.__cause__).startswith(_VIOLATED):
            raise
        if "specialized" not in str(error.__cause__):
            again = partial(_trace_any_batch, program, input_shape)
            raise with_its_line(error, again, _NETWORK_ERRORS) from error.__cause__
        return _loosened(program, input_shape, output, task, error)
    return _captured(exported, input_shape, output, task)


def _loosened(
    module: nn.Module,
    input_shape: tuple[int, int, int],
    output: str | None,
    task: Task,
    tied: CaptureError,
) -> fx.GraphModule:
    """Of a network that reads its batch as a number (``len(x)``), if none stays in the graph.

    Raises:
        CaptureError: ``tied``, where traces with batches of two sizes differ.
        UnsupportedNetworkError, OptionError: as ``capture``.
    """
    try:
        traces = [_traced(module, example_input(input_shape, n)) for n in _UNLIKELY_BATCHES]
        one, other = (_captured(trace, input_shape, output, task) for trace in traces)
    except (*_NETWORK_ERRORS, CaptureError):
        raise tied from None
    stored, others = one.state_dict(), other.state_dict()
    if one.code != other.code or stored.keys() != others.keys():
        raise tied
    if any(not torch.equal(stored[name], others[name]) for name in stored):
        raise tied
    return one


def _captured(
    exported: ExportedProgram, input_shape: tuple[int, int, int], output: str | None, task: Task
) -> fx.GraphModule:
    rename_keywords(exported)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = exported.run_decompositions({}).module(check_guards=False)
    except _NETWORK_ERRORS as error:
        raise _cannot_run(error, input_shape, "export it again, in evaluation mode") from error
    graph_module = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    graph_module.requires_grad_(False)
    refuse_branches(graph_module.graph)
    _take_input(graph_module)
    result = graph_module.graph.output_node()
    result.args = (pick_output(result, exported.call_spec.out_spec, output),)
    make_rows(graph_module, task)
    graph_module.graph._codegen = fx.graph.CodeGen()
    take_any_batch(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    normalize(graph_module)
    take_off_probabilities(graph_module, task)
    drop_idle_moves(graph_module)
    _check_output(graph_module, input_shape, 1 if task == "multilabel" else 2)
    return graph_module


def _export(module: nn.Module, input_shape: tuple[int, int, int]) -> ExportedProgram:
    module = module.eval()
    _check_parameters(module)
    refuse_script_parts(module)
    try:
        return _trace_any_batch(module, input_shape)
    except _NETWORK_ERRORS as error:
        _check_runs(module, input_shape)
        place = _place(error)
        remedy = (
            "edit the line that is named" if place else "take what it complains of out of forward"
        )
        if str(error).startswith(_VIOLATED):
            remedy = "take what decides or computes by the number of images out of forward"
        raise CaptureError(
            "the network must be capturable by torch.export with a dynamic batch",
            _first_line(error) + place,
            f"{remedy}, or pass a torch.export archive made in your own code",
        ) from error


def _trace_any_batch(module: nn.Module, input_shape: tuple[int, int, int]) -> ExportedProgram:
    return _traced(module, example_input(input_shape), {0: torch.export.Dim("batch", min=1)})


class _Inside(nn.Module):
    """A network one level down, where its parts may be called like members of a graph module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


def _traced(module: nn.Module, images: Tensor, sizes: Any = None) -> ExportedProgram:
    stored = [*module.named_parameters(), *module.named_buffers()]
    taken = not _TAKEN_NAMES.isdisjoint(path.partition(".")[0] for path, _ in stored)
    # Of forward(*args) torch wants to be told of a tuple.
    if taken or inspect.getfullargspec(module.forward).varargs:
        module = _Inside(module).eval()
    # The images may be the first of ``*args``, which torch counts as one argument.
    kinds = [given.kind for given in inspect.signature(module.forward).parameters.values()]
    if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]:
        sizes = (sizes,)
    with torch.no_grad(), warnings.catch_warnings(), _quiet_tracer():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, (images,), dynamic_shapes=(sizes,), strict=False)
    if isinstance(module, ScriptedNetwork):
        module.name_constants(exported)
    return exported


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """Without torch's own report of an operator that fails; the error says the same in a line."""
    from torch.export import _trace  # which torch loads with the first export

    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    # Of a size that depends on values it prints the whole graph so far.
    names = vars(_trace)
    names["print"] = lambda *_, **__: None
    try:
        yield
    finally:
        logger.disabled = before
        names.pop("print", None)


def _check_parameters(module: nn.Module) -> None:
    """One image must be enough to call the network."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.default is p.empty and p.kind in positional]
    if len(required) > 1:
        raise _not_one_input([p.name for p in required])


def _check_runs(module: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Blame the shape where the network fails outside the tracer too, and a head of boxes."""
    try:
        with torch.no_grad():
            result = module(example_input(input_shape))
    except _NETWORK_ERRORS as error:
        remedy = "check --input-shape, or pass a torch.export archive made in your own code"
        raise _cannot_run(error, input_shape, remedy) from error
    refuse_boxes(result)


def _cannot_run(error: Exception, input_shape: tuple[int, int, int], remedy: str) -> CaptureError:
    if _OTHER_FLOATS.search(str(error)):
        remedy = "weights are read as float32: take autocast, .half() and .double() out of forward"
    return CaptureError(
        f"the network must run on a batch of images of shape {input_shape}",
        _first_line(error) + _place(error),
        remedy,
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What is violated stands in a list behind this head, beside hints on torch's own options.
    if lines and lines[0].startswith(_VIOLATED):
        lines = [line.removeprefix("- ") for line in lines[1:]] or lines
    # TorchScript's interpreter tells behind its own traceback what failed.
    told = [line.removeprefix(_TOLD) for line in lines if line.startswith(_TOLD)] or lines
    return f"{type(error).__name__}: {shortened(told[0]) if told else 'no message'}"


def _place(error: Exception) -> str:
    """Line of the network's source where the error came from, as far as it is known."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_of_the_network(frame.filename)]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


def _take_input(graph_module: fx.GraphModule) -> None:
    inputs = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    if len(inputs) != 1:
        raise _not_one_input([n.name for n in inputs])
    inputs[0].name = "input"
    inputs[0].target = "input"


def _not_one_input(names: list[str]) -> UnsupportedNetworkError:
    return UnsupportedNetworkError(
        "the network must have exactly one input, an image",
        f"{len(names)} inputs ({', '.join(names)})",
        "wrap it in a module that fixes the other inputs",
    )


def _check_output(
    graph_module: fx.GraphModule, input_shape: tuple[int, int, int], fewest: int
) -> None:
    images, known = example_input(input_shape, 3), None
    for batch in (2, 3):
        try:
            with torch.no_grad():
                # A call of the module itself would print the code around an error.
                logits = graph_module.forward(images[:batch])
        except _NETWORK_ERRORS as error:
            remedy = "check --input-shape, or export the archive with a dynamic batch"
            raise _cannot_run(error, input_shape, remedy) from error
        check_rows(logits, batch, fewest)
        check_alone(logits, known)
        known = logits
    check_unmasked(logits)
