"""Indexes of known architectures for tests: real ones, built once per run, timm's a small part."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from lrq_deploy.inspection.index import Index, installed_version
from lrq_deploy.inspection.inspect import Inspection, inspect_model
from lrq_deploy.inspection.meta_build import families

__all__ = ["inspected", "keep_indexes", "some_of_timm", "torchvision_index"]

_SOME_OF_TIMM = {
    "efficientnet/mobilenetv3": ["mobilenetv3_small_050", "mobilenetv3_small_075"],
    "efficientnet/efficientnet": ["efficientnet_lite0"],
    "efficientnet/tf_efficientnet": ["tf_efficientnet_lite0"],
    "resnet/resnet": ["resnet10t", "resnet18"],
    "vision_transformer/vit": ["vit_tiny_patch16_224"],
}


@functools.cache
def torchvision_index() -> Index:
    """All of torchvision."""
    index = Index("torchvision", _version("torchvision"), families("torchvision"))
    index.add_entries(index.families)
    return index


@functools.cache
def some_of_timm() -> Index:
    """Seven networks of timm, in the families that they have in the whole index."""
    index = Index("timm", _version("timm"), _SOME_OF_TIMM)
    index.add_templates()
    index.add_entries(index.families)
    return index


def _version(library: str) -> str:
    found = installed_version(library)
    if found is None:
        pytest.skip(f"{library} is not installed")
    return found


def keep_indexes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the cache directory and put these indexes there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    torchvision_index().save()
    some_of_timm().save()


def inspected(content: object, path: Path, **options: Any) -> Inspection:
    """What ``inspect`` says of ``content`` as ``torch.save`` writes it to ``path``."""
    torch.save(content, path, **options)
    return inspect_model(path)
