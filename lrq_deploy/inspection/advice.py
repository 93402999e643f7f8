"""What a user should do with an inspected file: one sentence, and commands where there are any."""

from dataclasses import dataclass, replace

from lrq_deploy.checkpoint.naming import COUNTERS
from lrq_deploy.checkpoint.saving import (
    WeightsSource,
    safetensors_source,
    saving_line,
    torch_source,
)
from lrq_deploy.inspection.inspect import Inspection
from lrq_deploy.inspection.near import Kinship, Near

__all__ = ["Advice", "Run", "advise", "shown_differences"]

_SHOWN_CANDIDATES = 6
_SHOWN_DIFFERENCES = 5
_SHOWN_GLOBALS = 3
_WITHOUT_BATCH_NORM = (
    "It has no BatchNorm layer to learn images from: painted ones train the student, and --mean "
    "and --std must be known."
)


@dataclass(frozen=True)
class Run:
    """A ``quantize`` run to propose.

    Attributes:
        model: file to quantize.
        arch: value of ``--arch``; empty for none.
        input_shape: text of ``--input-shape``; empty for none.
        trusted: whether ``--trust-pickle`` is passed.
    """

    model: str
    arch: str = ""
    input_shape: str = ""
    trusted: bool = False


@dataclass(frozen=True)
class Advice:
    """What to do next.

    Attributes:
        sentence: whether the file can be quantized, and what is needed if not.
        python: a line of Python to run first; empty for none.
        runs: ``quantize`` runs, of which the user needs one.
        example: a Python file to start from; empty for none.
    """

    sentence: str
    python: str = ""
    runs: tuple[Run, ...] = ()
    example: str = ""

    def remedy(self) -> str:
        """The same in the clause of an error; the commands are left to the reader."""
        if self.python and self.runs:
            run = self.runs[0]
            arch = f" with --arch {run.arch}" if run.arch else ""
            return f"save the network alone ({self.python}) and pass {run.model}{arch}"
        pass_file = "pass --arch FILE.py:FACTORY with --input-shape C,H,W"
        if self.example:
            shown = "".join(f"\n    {line}".rstrip(" ") for line in self.example.splitlines())
            return f"{pass_file}; a file to start from, with the factory that it defines:{shown}"
        return f"{pass_file}; lrq-deploy inspect says more"


def advise(found: Inspection) -> Advice:
    """Advice for one file."""
    path = str(found.path)
    if found.kind == "onnx":
        return Advice(
            "quantize takes PyTorch networks, not ONNX, because it trains the network that it "
            f"quantizes. Ask whoever exported this file ({found.outline.written_by}) for the "
            "checkpoint that it was made from, and inspect that."
        )
    advice = _advice(found, path)
    if found.batch_norms or found.kind == "export-archive":
        return advice
    return replace(advice, sentence=f"{advice.sentence} {_WITHOUT_BATCH_NORM}")


def _advice(found: Inspection, path: str) -> Advice:
    if found.kind == "export-archive":
        return _for_archive(found, path)
    sentence = _sentence(found)
    near = found.match.near
    if found.outline.unsafe_globals:
        return _for_code(found, sentence)
    if found.kind == "torchscript" and found.match.chosen is None and not found.described:
        return _for_script(found, path)
    if near and near.kinship == Kinship.EXTRA:
        return Advice(sentence, _saving(found), _runs(found, _source(found).target))
    return Advice(sentence, runs=_runs(found, path), example=near.example if near else "")


def _for_archive(found: Inspection, path: str) -> Advice:
    if found.outline.unsafe_globals:
        return Advice(
            "It holds what quantize refuses to load: "
            f"{found.outline.unsafe_globals[0]}. Export the plain float network again with "
            "torch.export.save(torch.export.export(...), path).",
        )
    shape = found.outline.input_shape or ()
    missing = "" if len(shape) == 4 and min(shape[1:]) > 0 else _shape_text(found)
    return Advice(
        "It carries its own network and can be quantized.", runs=(Run(path, "", missing),)
    )


def _for_script(found: Inspection, path: str) -> Advice:
    """It needs no Python file, only trust; several known networks may have the same weights."""
    run = Run(path, "", _shape_text(found), trusted=True)
    known = tuple(Run(path, c.spec) for c in found.match.candidates[:_SHOWN_CANDIDATES])
    fits = "It may be one of several" if known else "No known architecture fits"
    return Advice(
        f"{fits}: {found.match.reason}. It holds a program of its own, which quantize runs if you "
        "trust whoever made it.",
        runs=(*known, run),
    )


def _sentence(found: Inspection) -> str:
    match = found.match
    if found.described:
        missing = "" if found.sized else " No file beside it tells the size of its images."
        return (
            f"It is a {found.described} of transformers, as the config.json beside it says; "
            f"quantize builds it where transformers is installed.{missing}"
        )
    if match.chosen is not None:
        return f"It is {match.chosen.spec}: {match.reason}."
    if match.candidates:
        return f"It may be one of several: {match.reason}. Pass the one that was trained."
    if match.near and match.near.kinship == Kinship.EXTRA:
        return (
            f"It is not {match.near.spec} alone: {match.reason}. Save the network alone and "
            "quantize that. Where the other tensors take part in its answers, pass instead the "
            "Python file that defines the whole, as --arch FILE.py:FACTORY."
        )
    if match.near:
        start = ", starting from the one below," if match.near.example else ""
        return (
            f"No known architecture fits: {match.reason}. Write a Python file{start} whose factory "
            "builds the network as it was trained, and pass it with its input size."
        )
    return (
        f"No known architecture fits: {match.reason}. Pass the Python file that defines the "
        "network, with the name of the class or function that builds it, and its input size."
    )


def _runs(found: Inspection, path: str) -> tuple[Run, ...]:
    match = found.match
    if found.described:
        return (Run(path, "", "" if found.sized else _shape_text(found)),)
    if match.chosen is not None:
        return (Run(path, match.chosen.spec),)
    if match.candidates:
        return tuple(Run(path, c.spec) for c in match.candidates[:_SHOWN_CANDIDATES])
    if match.near and match.near.kinship == Kinship.EXTRA:
        return tuple(Run(path, spec) for spec in match.near.specs[:_SHOWN_CANDIDATES])
    return (Run(path, "FILE.py:FACTORY", _shape_text(found)),)


def _shape_text(found: Inspection) -> str:
    return f"{found.input_channels or 'C'},H,W"


def _for_code(found: Inspection, sentence: str) -> Advice:
    names = found.outline.unsafe_globals
    shown = ", ".join(names[:_SHOWN_GLOBALS])
    more = f" and {len(names) - _SHOWN_GLOBALS} more" if len(names) > _SHOWN_GLOBALS else ""
    warning = (
        f"Loading this file would import and may run {shown}{more}. Nothing was. If you trust "
        "whoever made it, save its weights alone where that code is installed. "
    )
    near = found.match.near
    example = near.example if near else ""
    runs = _runs(found, _source(found).target)
    return Advice(warning + sentence, _saving(found), runs, example)


def _saving(found: Inspection) -> str:
    """A line of Python that saves the weights, and of them only the network's, as a state dict."""
    near, source = found.match.near, _source(found)
    if near is None or near.kinship != Kinship.EXTRA:
        return f"{source.imports}; torch.save({source.expression}, {source.target!r})"
    outside = set(near.outside)
    kept = [n for n in found.outline.tensors if not (n in outside or n.endswith(COUNTERS))]
    return saving_line(source, near.prefix, kept, near.outside)


def _source(found: Inspection) -> WeightsSource:
    tensors = found.outline.tensors
    if found.kind == "safetensors":
        return safetensors_source(found.path, tensors)
    keys = [key for key in found.outline.location.split(".") if key]
    whole = bool(found.outline.module_class)
    return torch_source(found.path, tensors, keys, found.outline.plain, whole)


def shown_differences(near: Near) -> tuple[str, ...]:
    """The first differences, and how many more there are."""
    more = len(near.differences) - _SHOWN_DIFFERENCES
    shown = near.differences[:_SHOWN_DIFFERENCES]
    return (*shown, f"and {more} more") if more > 0 else shown
