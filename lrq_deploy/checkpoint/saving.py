"""Python for the user: an expression that reads weights, a line that saves some of them alone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrq_deploy.checkpoint.naming import strip_wrappers

__all__ = [
    "WeightsSource",
    "loading_expression",
    "safetensors_source",
    "saving_line",
    "torch_source",
]


@dataclass(frozen=True)
class WeightsSource:
    """How Python reads the weights of a file again.

    Attributes:
        path: the file.
        imports: statement that the expression needs, with torch.
        expression: gives the weights by their names in the file.
        names: those names by the names without wrappers.
    """

    path: Path
    imports: str
    expression: str
    names: Mapping[str, str]

    @property
    def target(self) -> str:
        """Name of a file for a part of the weights."""
        return f"{self.path.stem}-weights.pt"


def torch_source(
    path: Path, names: Iterable[object], keys: Sequence[str], plain: bool, is_module: bool
) -> WeightsSource:
    """Of a file of ``torch.save``, whose weights have these names; see ``loading_expression``."""
    expression = loading_expression(path, keys, plain, is_module)
    return WeightsSource(path, "import torch", expression, _plain_names(names))


def safetensors_source(path: Path, names: Iterable[object]) -> WeightsSource:
    """Of a safetensors file."""
    imports = "import torch; from safetensors.torch import load_file"
    return WeightsSource(path, imports, f"load_file({str(path)!r})", _plain_names(names))


def _plain_names(names: Iterable[object]) -> dict[str, str]:
    return strip_wrappers({name: name for name in names if isinstance(name, str)})


def loading_expression(path: Path, keys: Sequence[str], plain: bool, is_module: bool) -> str:
    """Python that gives what lies under ``keys`` of a file of ``torch.save``, as a state dict.

    Args:
        path: the file.
        keys: that lead to the weights.
        plain: whether ``torch.load`` reads the file with ``weights_only=True``.
        is_module: whether a whole network lies there.
    """
    taken = "".join(f"[{key!r}]" for key in keys) + (".state_dict()" if is_module else "")
    return f"torch.load({str(path)!r}, 'cpu', weights_only={plain}){taken}"


def saving_line(
    source: WeightsSource, prefix: str, kept: Collection[str], beside: Sequence[str]
) -> str:
    """A line of Python that saves some weights to ``source.target``, without the prefix.

    Args:
        source: of the weights.
        prefix: what the names of all that are kept begin with.
        kept: names in the file.
        beside: names in the file of those that are left out.
    """
    name = f"name.removeprefix({prefix!r})" if prefix else "name"
    condition = _condition(prefix, kept, beside)
    taken = f"{{{name}: t for name, t in {source.expression}.items() if {condition}}}"
    return f"{source.imports}; torch.save({taken}, {source.target!r})"


def _condition(prefix: str, kept: Collection[str], beside: Sequence[str]) -> str:
    """In Python: whether ``name`` is one of those that are kept, in as few words as tell it."""
    begins = f"name.startswith({prefix!r})" if prefix else ""
    inside = [name for name in beside if name.startswith(prefix)]
    if not inside:
        return begins or "True"
    told = f"name not in {inside}"
    for place in (0, -1):
        words = dict.fromkeys(name.split(".")[place] for name in inside)
        if words.keys().isdisjoint(name.split(".")[place] for name in kept):
            told = f"name.split('.')[{place}] not in {list(words)}"
            break
    return f"{begins} and {told}" if begins else told
