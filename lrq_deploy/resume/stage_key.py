"""What the product of a stage depends on, as one key."""

import ast
import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["code_digest", "stage_key"]

PACKAGE = "lrq_deploy."
# Declarations, whose values are in the key, and what only reports or keeps.
NOT_PART_OF_A_STAGE = (
    "lrq_deploy.errors",
    "lrq_deploy.method.recipe",
    "lrq_deploy.options",
    "lrq_deploy.progress",
    "lrq_deploy.resume.",
)


def stage_key(inputs: Mapping[str, Any]) -> str:
    """SHA-256 in hex over plain values by name; the order of the names does not matter."""
    text = json.dumps(inputs, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest(module: str) -> str:
    """SHA-256 in hex over a module of this project and all that it imports from it.

    Comments and layout do not count.
    """
    pending, trees = [module], dict[str, str]()
    while pending:
        name = pending.pop()
        if name in trees or name.startswith(NOT_PART_OF_A_STAGE):
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        trees[name] = ast.dump(tree)
        imports = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        pending += [name for name in imports if name is not None and name.startswith(PACKAGE)]
    return stage_key(trees)
