"""The ``config.json`` that transformers writes beside the weights of an image classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lrq_deploy.checkpoint.class_names import named_in
from lrq_deploy.checkpoint.hub_config import read_hub_config
from lrq_deploy.checkpoint.json_beside import read_json_object
from lrq_deploy.checkpoint.weights_folder import weights_file
from lrq_deploy.task import Task

__all__ = ["PROCESSOR", "TransformersConfig", "read_transformers_config", "task_beside"]

PROCESSOR = "preprocessor_config.json"
"""What an image processor says of itself, in the same folder."""

_KIND = "ForImageClassification"
_TASKS: dict[object, Task] = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
}


@dataclass(frozen=True)
class TransformersConfig:
    """What the file tells of the network.

    Attributes:
        path: the file.
        network: class of transformers that the weights are of.
        task: what its logits mean; None where the file does not say.
        sized: whether it or an image processor beside it tells the size of the images.
        normalised: whether an image processor beside it tells their mean and std.
        class_names: in the order of the logits; empty where it names none.
    """

    path: Path
    network: str
    task: Task | None = None
    sized: bool = False
    normalised: bool = False
    class_names: tuple[str, ...] = ()


def read_transformers_config(weights: Path) -> TransformersConfig | None:
    """The file in the folder of ``weights``; None where there is none, or another program's.

    One that names a network of timm, wrapped by transformers, is timm's.
    """
    path = weights.parent / "config.json"
    document = read_json_object(path)
    if document is None or read_hub_config(weights) is not None:
        return None
    names, kind = document.get("architectures"), document.get("model_type")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(kind, str) or not isinstance(name, str):
        return None
    if not name.isidentifier() or _KIND not in name:
        return None
    problem = document.get("problem_type")
    task = _TASKS.get(problem) if isinstance(problem, str) else None
    processed = (path.parent / PROCESSOR).is_file()
    sized = processed or _tells_size(document)
    return TransformersConfig(path, name, task, sized, processed, named_in(document))


def _tells_size(document: Mapping[str, object]) -> bool:
    """The side is taken from the file for RGB alone, as ``transformers_network`` does."""
    side = document.get("image_size")
    return isinstance(side, int) and side > 0 and document.get("num_channels", 3) == 3


def task_beside(weights: Path, arch: str | None) -> Task:
    """What logits mean where nobody says it: as the file beside the weights has it.

    Args:
        weights: the model file, or the folder that holds it.
        arch: that the user names; such a network is not the file's.
    """
    config = read_transformers_config(weights_file(weights)) if arch is None else None
    return (config.task if config else None) or "multiclass"
