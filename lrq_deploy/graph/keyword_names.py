"""Names of parts that Python reserves: the code that torch writes for a graph cannot hold them."""

import keyword
from collections.abc import Container

from torch.export import ExportedProgram

__all__ = ["rename_keywords"]


def rename_keywords(exported: ExportedProgram) -> None:
    """Put ``_`` behind each keyword in the paths of stored tensors, in place: ``stem.in_.weight``.

    More than one, where a part of the network is called so.
    """
    stores = (exported.state_dict, exported.constants)
    taken = {part for store in stores for name in store for part in name.split(".")}
    signature = exported.graph_signature
    for spec in (*signature.input_specs, *signature.output_specs):
        parts = str(spec.target).split(".") if spec.target else []
        if not any(keyword.iskeyword(part) for part in parts):
            continue
        old, new = spec.target, ".".join(_free(part, taken) for part in parts)
        for store in stores:
            if old in store:
                store[new] = store.pop(old)
        spec.target = new


def _free(part: str, taken: Container[str]) -> str:
    if keyword.iskeyword(part):
        part += "_"
        while part in taken:
            part += "_"
    return part
