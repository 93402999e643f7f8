"""Where the weights are in what a checkpoint holds, read by torch or by stand-ins alike."""

from collections.abc import Callable
from pathlib import Path

from lrq_deploy.checkpoint.naming import keys_to_weights, sets_of_weights
from lrq_deploy.errors import CheckpointError

__all__ = ["place_of_weights"]


def place_of_weights(
    content: object,
    path: Path,
    is_module: Callable[[object], bool],
    is_tensor: Callable[[object], bool],
    description: str,
) -> tuple[str, ...]:
    """The keys that lead to a module or to a mapping with named tensors.

    Args:
        content: of the file.
        path: the file, for messages.
        is_module, is_tensor: what counts as either.
        description: of ``content``, for the message where it holds no weights.

    Raises:
        CheckpointError: there are no named tensors, or several sets of which none has a usual key.
    """
    keys = keys_to_weights(content, is_module, is_tensor)
    if keys is not None:
        return keys
    sets = sets_of_weights(content, is_module, is_tensor)
    if not sets:
        raise CheckpointError(
            "a checkpoint must hold named tensors",
            f"{path} with {description}",
            "put the state dict at the top or under 'state_dict' or 'model'",
        )
    first = "".join(f"[{key!r}]" for key in sets[0])
    raise CheckpointError(
        "a checkpoint must hold one set of weights, or one under a usual key such as 'state_dict'",
        f"{path} with {len(sets)}: {', '.join('.'.join(keys) for keys in sets)}",
        "save the one to quantize alone, for instance with "
        f"torch.save(torch.load({str(path)!r}, 'cpu', weights_only=True){first}, 'weights.pt')",
    )
