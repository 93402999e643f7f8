"""What a user should do with an inspected file: one sentence, and commands where there are any."""

from dataclasses import dataclass

from lrq_deploy.inspection.inspect import Inspection

__all__ = ["Advice", "Run", "advise"]

_SHOWN_CANDIDATES = 6
_SHOWN_GLOBALS = 3


@dataclass(frozen=True)
class Run:
    """A ``quantize`` run to propose.

    Attributes:
        model: file to quantize.
        arch: value of ``--arch``; empty for none.
        input_shape: text of ``--input-shape``; empty for none.
    """

    model: str
    arch: str = ""
    input_shape: str = ""


@dataclass(frozen=True)
class Advice:
    """What to do next.

    Attributes:
        sentence: whether the file can be quantized, and what is needed if not.
        python: a line of Python to run first; empty for none.
        runs: ``quantize`` runs, of which the user needs one.
    """

    sentence: str
    python: str = ""
    runs: tuple[Run, ...] = ()


def advise(found: Inspection) -> Advice:
    """Advice for one file."""
    path = str(found.path)
    if found.kind == "onnx":
        return Advice(
            "quantize takes PyTorch networks, not ONNX, because it trains the network that it "
            f"quantizes. Ask whoever exported this file ({found.outline.written_by}) for the "
            "checkpoint that it was made from, and inspect that."
        )
    if found.batch_norms == 0:
        return Advice(
            "It has no BatchNorm layer. Without data, quantize learns what an input looks like "
            "from BatchNorm statistics, so it refuses this network; train one with BatchNorm."
        )
    if found.kind == "export-archive":
        return _for_archive(found, path)
    runs = _runs(found, path)
    sentence = _sentence(found)
    if found.outline.unsafe_globals:
        return _for_code(found, sentence)
    return Advice(sentence, runs=runs)


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


def _sentence(found: Inspection) -> str:
    match = found.match
    if match.chosen is not None:
        return f"It is {match.chosen.spec}: {match.reason}."
    if match.candidates:
        return f"It may be one of several: {match.reason}. Pass the one that was trained."
    if match.near:
        return (
            f"No known architecture fits: {match.reason}. Write a Python file whose factory "
            "builds the network as it was trained, and pass it with its input size."
        )
    return (
        f"No known architecture fits: {match.reason}. Pass the Python file that defines the "
        "network, with the name of the class or function that builds it, and its input size."
    )


def _runs(found: Inspection, path: str) -> tuple[Run, ...]:
    match = found.match
    if match.chosen is not None:
        return (Run(path, match.chosen.spec),)
    if match.candidates:
        return tuple(Run(path, c.spec) for c in match.candidates[:_SHOWN_CANDIDATES])
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
    clean = f"{found.path.stem}-weights.pt"
    keys = "".join(f"[{key!r}]" for key in found.outline.location.split(".") if key)
    load = f"torch.load({str(found.path)!r}, weights_only=False){keys}"
    weights = f"{load}.state_dict()" if found.outline.module_class else load
    return Advice(
        warning + sentence, f"import torch; torch.save({weights}, {clean!r})", _runs(found, clean)
    )
