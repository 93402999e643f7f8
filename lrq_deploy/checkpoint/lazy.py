"""Networks with layers of which torch learns the sizes from the first batch."""

from torch import nn
from torch.nn.parameter import is_lazy

from lrq_deploy.errors import CheckpointError

__all__ = ["refuse_lazy"]


def refuse_lazy(network: nn.Module, origin: str) -> None:
    """Refuse a network with a parameter or buffer of no size yet.

    Raises:
        CheckpointError: names the first one.
    """
    lazy = (name for name, tensor in network.state_dict().items() if is_lazy(tensor))
    if (name := next(lazy, None)) is not None:
        raise CheckpointError(
            "the layers of a network must know their sizes",
            f"{origin}, whose {name} has none before a first batch",
            "run network.eval()(torch.zeros(1, 3, 224, 224)), with the shape of its images, where "
            "it is made, before weights are put into it",
        )
