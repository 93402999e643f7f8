"""The graph that ships against the student that was trained, as far as a run can spare."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lrq_deploy.errors import ParityError
from lrq_deploy.export.parity.bounds import Bound, as_close_as
from lrq_deploy.export.parity.compare import Parity, compare
from lrq_deploy.export.parity.reference import float_operator
from lrq_deploy.export.parity.simulation import exact_logits
from lrq_deploy.export.runtime.session import Session, batches_of
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["student_parity"]


def student_parity(
    model: QuantizedModel, session: Session, images: Tensor | Iterable[Tensor], strict: bool = True
) -> Parity:
    """Torch student, evaluated exactly, against its ONNX graph with all optimisations on.

    Args:
        model: what was trained.
        session: its graph.
        images: normalised, ``[N, C, H, W]`` or batches of it.
        strict: whether a missed bound is an error.

    Raises:
        ParityError: the bound is missed, see ``Bound`` and ``as_close_as``; or no images.
    """
    in_floats = strict and float_operator(model) is not None
    exact, shipped, simulated = [], [], []
    for batch in batches_of(images):
        exact.append(exact_logits(model, batch))
        shipped.append(session.logits(batch))
        if in_floats:
            simulated.append(model.logits(batch))
    if not exact:
        raise ParityError("parity needs images", "none", "pass at least one image")
    wanted = torch.cat(exact)
    parity = compare(wanted, torch.cat(shipped), model.task)
    bound = as_close_as(compare(wanted, torch.cat(simulated), model.task)) if in_floats else Bound()
    if strict and not bound.holds(parity):
        raise ParityError(
            f"ONNX Runtime must repeat the answers of the torch student ({bound.describe()})",
            f"{100 * parity.same_top1:.2f} % on {parity.count} images, logits off by up to "
            f"{parity.max_diff:.3g}",
            "this is a fault of lrq-deploy or of the runtime; please report it with the CPU type",
        )
    return parity
