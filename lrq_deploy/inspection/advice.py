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
from lrq_deploy.inspection.matching import LIBRARY_ORDER
from lrq_deploy.inspection.near import Kinship, Near
from lrq_deploy.inspection.refusals import refusal

__all__ = ["Advice", "Run", "advise", "shown_differences"]

_SHOWN_CANDIDATES = 6
_SHOWN_DIFFERENCES = 5
_SHOWN_GLOBALS = 3
_PAINTED = "It has no BatchNorm layer to learn images from: painted ones train the student"
_SHOWN_CHANNELS = 4
_NAMED = tuple(f"{library}:" for library in LIBRARY_ORDER)
"""Libraries whose names tell how pixels are normalised."""
_OF_ITS_IMAGES = "its input size and the mean and std that its images were normalised with"


@dataclass(frozen=True)
class Run:
    """A ``quantize`` run to propose.

    Attributes:
        model: file to quantize.
        arch: value of ``--arch``; empty for none.
        input_shape: text of ``--input-shape``; empty for none.
        trusted: whether ``--trust-pickle`` is passed.
        mean, std: placeholders of ``--mean`` and ``--std`` where nothing tells them; else empty.
    """

    model: str
    arch: str = ""
    input_shape: str = ""
    trusted: bool = False
    mean: str = ""
    std: str = ""


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
        pass_file = "pass --arch FILE.py:FACTORY with --input-shape C,H,W, --mean and --std"
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
    refused = refusal(found)
    if refused:
        return Advice(refused)
    advice = _advice(found, path)
    if found.batch_norms:
        return advice
    known = "" if not _open_normalisation(advice) else ", and --mean and --std must be known"
    return replace(advice, sentence=f"{advice.sentence} {_PAINTED}{known}.")


def _open_normalisation(advice: Advice) -> bool:
    return any(run.mean for run in advice.runs)


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
    shape = found.outline.input_shape or ()
    missing = "" if len(shape) == 4 and min(shape[1:]) > 0 else _shape_text(found)
    return Advice(
        "It carries its own network and can be quantized, with the mean and std that its images "
        "were normalised with.",
        runs=(_run(found, path, "", missing),),
    )


def _for_script(found: Inspection, path: str) -> Advice:
    """It needs no Python file, only trust; several known networks may have the same weights."""
    run = replace(_run(found, path, "", _shape_text(found)), trusted=True)
    known = tuple(Run(path, c.spec) for c in found.match.candidates[:_SHOWN_CANDIDATES])
    fits = "It may be one of several" if known else "No known architecture fits"
    return Advice(
        f"{fits}: {found.match.reason}. It holds a program of its own, which quantize runs if you "
        "trust whoever made it. It tells neither its input size nor the mean and std that its "
        "images were normalised with.",
        runs=(*known, run),
    )


def _sentence(found: Inspection) -> str:
    match = found.match
    if found.described:
        mean = "the mean and std of its images"
        untold = mean if found.sized else "the size of its images or their mean and std"
        missing = "" if found.normalised else f" No file beside it tells {untold}."
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
            f"builds the network as it was trained, and pass it with {_OF_ITS_IMAGES}."
        )
    return (
        f"No known architecture fits: {match.reason}. Pass the Python file that defines the "
        "network, with the name of the class or function that builds it, and with "
        f"{_OF_ITS_IMAGES}."
    )


def _runs(found: Inspection, path: str) -> tuple[Run, ...]:
    match = found.match
    if found.described:
        return (_run(found, path, "", "" if found.sized else _shape_text(found)),)
    if match.chosen is not None:
        return (Run(path, match.chosen.spec),)
    if match.candidates:
        return tuple(Run(path, c.spec) for c in match.candidates[:_SHOWN_CANDIDATES])
    if match.near and match.near.kinship == Kinship.EXTRA:
        return tuple(Run(path, spec) for spec in match.near.specs[:_SHOWN_CANDIDATES])
    return (_run(found, path, "FILE.py:FACTORY", _shape_text(found)),)


def _run(found: Inspection, path: str, arch: str, input_shape: str) -> Run:
    """With ``--mean`` and ``--std`` to fill in, unless a name or a file tells them."""
    if found.normalised or arch.startswith(_NAMED):
        return Run(path, arch, input_shape)
    channels = found.input_channels or 0
    mean, std = (
        ",".join([letter] * channels) if 0 < channels <= _SHOWN_CHANNELS else f"{letter},..."
        for letter in ("M", "S")
    )
    return Run(path, arch, input_shape, mean=mean, std=std)


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
    whole = bool(found.outline.module_class)
    return torch_source(found.path, tensors, found.outline.keys, found.outline.plain, whole)


def shown_differences(near: Near) -> tuple[str, ...]:
    """The first differences, and how many more there are."""
    more = len(near.differences) - _SHOWN_DIFFERENCES
    shown = near.differences[:_SHOWN_DIFFERENCES]
    return (*shown, f"and {more} more") if more > 0 else shown
