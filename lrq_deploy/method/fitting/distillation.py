"""Distillation losses between teacher and student logits.

Legend: N images, K classes, T temperature, ``t`` teacher and ``s`` student.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["decoupled_distillation", "label_distillation", "plain_distillation"]


def plain_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(t/T) || softmax(s/T))``, batch mean (Hinton et al., arXiv 1503.02531)."""
    return temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )


def label_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 sum_k KL(Bernoulli(sigmoid(t_k/T)) || Bernoulli(sigmoid(s_k/T)))``, batch mean.

    For labels that stand on their own: the divergence of their joint distribution.
    """
    yes = torch.sigmoid(teacher / temperature)
    cross = F.binary_cross_entropy_with_logits(student / temperature, yes, reduction="none")
    own = F.binary_cross_entropy_with_logits(teacher / temperature, yes, reduction="none")
    return temperature**2 * (cross - own).sum(1).mean()


def decoupled_distillation(
    student: Tensor, teacher: Tensor, temperature: float, other_weight: float
) -> Tensor:
    """Decoupled distillation (Zhao et al., arXiv 2203.08679, eq. 7), batch mean.

    ``T^2 (KL(b_t || b_s) + other_weight * KL(q_t || q_s))`` with
    ``b = (p_y, 1 - p_y)`` and ``q`` the distribution over the other classes; the target ``y``
    is the teacher's argmax. For two classes ``q`` is a single certainty, so plain distillation
    is returned.

    Args:
        student: logits ``[N, K]``.
        teacher: logits ``[N, K]``.
        temperature: above 0.
        other_weight: beta of the paper, whose alpha is 1.
    """
    if student.shape[1] == 2:
        return plain_distillation(student, teacher, temperature)
    target = teacher.argmax(1, keepdim=True)
    log_b_student, log_q_student = _decouple(student / temperature, target)
    log_b_teacher, log_q_teacher = _decouple(teacher / temperature, target)
    target_term = F.kl_div(log_b_student, log_b_teacher, reduction="batchmean", log_target=True)
    other_term = F.kl_div(log_q_student, log_q_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * (target_term + other_weight * other_term)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log of ``(p_y, 1 - p_y)`` ``[N, 2]`` and of the distribution over the others ``[N, K-1]``."""
    # Not by a mask: a GPU would be waited for to count what it lets through.
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    rest = logits.gather(1, columns + (columns >= target))
    chosen = logits.gather(1, target)
    pair = torch.cat([chosen, rest.logsumexp(1, keepdim=True)], 1)
    return F.log_softmax(pair, 1), F.log_softmax(rest, 1)
