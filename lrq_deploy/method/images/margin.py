"""Adversarial Margin Add (AMA): an angular margin between features and class centres.

LRQ's abstract (arXiv 2211.06816): "force intra-class angular enlargement between feature vector
and class center", which "increases the convergence difficulty of the loss function". The class
centre is the row of the teacher's last linear layer, the angle theta_y that between it and the
feature vector. Three readings; what each is worth is measured in ``docs/method.md``:

* ``a1``: ArcFace (arXiv 1801.07698, eq. 3) in the generator's classification loss: the target
  logit becomes ``|f| |W_y| cos(theta_y + m) + b_y``.
* ``a2``: plain cross entropy plus ``max(0, m - theta_y)``, which pushes small angles open.
* ``b``: the margin of ``a1`` in the student's cross entropy; the generator's loss is plain.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lrq_deploy.graph.statistics import Classifier

__all__ = ["add_margin", "angle_penalty", "class_angles"]

COSINE_LIMIT = 1 - 1e-6
"""The gradient of the angle is infinite at a cosine of 1."""


def class_angles(features: Tensor, labels: Tensor, classifier: Classifier) -> Tensor:
    """Angles theta_y in radians, ``[N]``, of features ``[N, F]`` to the centres of ``labels``."""
    centres = classifier.weight[labels]
    cosine = F.cosine_similarity(features, centres, dim=1)
    return torch.acos(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT))


def add_margin(
    logits: Tensor, features: Tensor, labels: Tensor, classifier: Classifier, margin: float
) -> Tensor:
    """Logits ``[N, K]`` whose target entry carries an angle larger by ``margin`` radians.

    Beyond ``pi - margin`` the cosine would rise again; there ``cos(theta) - margin sin(margin)``
    continues it downwards, as in ArcFace.
    """
    centres = classifier.weight[labels]
    length = features.norm(dim=1) * centres.norm(dim=1)
    cosine = F.cosine_similarity(features, centres, dim=1)
    cosine = cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT)
    sine = (1 - cosine.square()).sqrt()
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    moved = torch.where(cosine > math.cos(math.pi - margin), moved, beyond)
    difference = length * (moved - cosine)
    return logits.scatter_add(1, labels[:, None], difference[:, None])


def angle_penalty(
    features: Tensor, labels: Tensor, classifier: Classifier, margin: float
) -> Tensor:
    """Mean of ``max(0, margin - theta_y)`` in radians."""
    return F.relu(margin - class_angles(features, labels, classifier)).mean()
