"""The file of weights in a folder, such as a download of the Hugging Face Hub."""

import re
from pathlib import Path

from lrq_deploy.checkpoint.json_beside import read_json_object
from lrq_deploy.errors import CheckpointError
from lrq_deploy.wording import counted

__all__ = ["weights_file"]

_SUFFIXES = {".bin", ".ckpt", ".pt", ".pt2", ".pth", ".safetensors", ".tar"}
_INDEX = ".index.json"
_SHARD = re.compile(r".+-\d{5}-of-(?!00001)\d{5}\.\w+")
"""One of several; a single one may be numbered too, and is whole."""

_SHOWN = 5


def weights_file(path: Path) -> Path:
    """The one file of weights of a folder; what is no folder as it is, but for a part of several.

    Raises:
        CheckpointError: the folder holds none or several, or the weights lie in shards.
    """
    try:
        if not path.is_dir():
            return _whole(path)
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    except OSError:
        # Whoever opens it says what is wrong with it.
        return path
    index = next((file for file in files if file.name.endswith(_INDEX)), None)
    weights = [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]
    if len(weights) == 1:
        return weights[0]
    if index is not None and all(_SHARD.fullmatch(file.name) for file in weights):
        raise _sharded(path, index)
    more = f", and {len(weights) - _SHOWN} more" if len(weights) > _SHOWN else ""
    names = ", ".join(file.name for file in weights[:_SHOWN]) + more
    raise CheckpointError(
        "the model must be a file, or a folder with one file of weights",
        f"the directory {path} with {names or 'none'}",
        "pass a file inside it" + (f", for instance {weights[0]}" if weights else ""),
    )


def _whole(path: Path) -> Path:
    if path.name.endswith(_INDEX) and path.is_file():
        raise _sharded(path, path)
    beside = sorted(path.parent.glob(f"*{_INDEX}")) if _SHARD.fullmatch(path.name) else []
    if beside:
        raise _sharded(path, beside[0])
    return path


def _sharded(path: Path, index: Path) -> CheckpointError:
    document = read_json_object(index) or {}
    places = document.get("weight_map")
    names = places.values() if isinstance(places, dict) else ()
    shards = {name for name in names if isinstance(name, str)}
    told = counted(len(shards), "file") if shards else "several files"
    return CheckpointError(
        "the weights must lie in one file",
        f"{path}, whose weights are in {told} by {index.name}",
        "save them in one: load the network with from_pretrained and call "
        "save_pretrained(FOLDER, max_shard_size='1TB')",
    )
