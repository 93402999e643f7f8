"""Names of the architecture that a training script saved beside the weights."""

from lrq_deploy.checkpoint.stated_places import stated_places

__all__ = ["plain_name", "stated_architectures"]

_KEYS = ("arch", "architecture", "model_name", "model")
_MAX_LENGTH = 100


def stated_architectures(content: object) -> tuple[str, ...]:
    """What a checkpoint calls its network, as timm's and torchvision's scripts and others do.

    A name tells networks apart whose tensors are alike; it does not stand above the tensors.

    Args:
        content: of the file, read by torch or by stand-ins, which keep a namespace's attributes
            as ``state``.
    """
    names = [place.get(key) for place in stated_places(content) for key in _KEYS]
    found = [plain_name(name) for name in names if isinstance(name, str)]
    return tuple(dict.fromkeys(name for name in found if name))


def plain_name(name: str) -> str:
    """``timm/resnet50.a1_in1k`` is ``resnet50``; empty for what is no name."""
    plain = name.strip().rpartition("/")[2].partition(".")[0]
    return plain if len(plain) <= _MAX_LENGTH and plain.isidentifier() else ""
