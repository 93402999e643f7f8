"""What is said where a network is no classifier, or where its error is longer than its news."""

from collections.abc import Mapping

from lrq_deploy.errors import UnsupportedNetworkError

__all__ = ["of_archive", "refuse_boxes", "shortened"]

_SHOWN = 300
"""Characters of an error of torch, which may spell out a graph; its beginning says the most."""


def refuse_boxes(result: object) -> None:
    """Refuse what a detector returns for a batch, as those of torchvision and transformers do.

    Raises:
        UnsupportedNetworkError: it is a mapping with boxes, or a sequence of such.
    """
    first = result[0] if isinstance(result, list | tuple) and result else result
    keys = list(first) if isinstance(first, Mapping) else []
    named = [key for key in keys if isinstance(key, str)]
    if any("boxes" in key for key in named):
        raise UnsupportedNetworkError(
            "the network must return logits [N, classes]",
            f"{', '.join(named)} per image, as a detector gives",
            "detection heads are not supported; wrap a classifier",
        )


def of_archive(error: UnsupportedNetworkError) -> UnsupportedNetworkError:
    """The same for a network from an archive, which does not follow when its source is edited."""
    if "--" in error.remedy or "export" in error.remedy:
        return error
    again = f"{error.remedy}; then export the network again, in evaluation mode"
    return UnsupportedNetworkError(error.rule, error.received, again)


def shortened(line: str) -> str:
    """The beginning of a line that is too long to read."""
    return line if len(line) <= _SHOWN else line[:_SHOWN].rstrip() + " ..."
