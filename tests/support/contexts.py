"""Contexts of stages in tests."""

import torch

from lrq_deploy.method.steps.context import StageContext

ON_CPU = StageContext(0, torch.device("cpu"))
