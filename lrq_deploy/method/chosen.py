"""The steps of a run: what its recipe, its method and its device make of them together."""

import torch

from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.method.steps.precision import trains_quickly
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.ranks import ALONE, Ranks

__all__ = ["chosen_settings"]


def chosen_settings(
    options: QuantizeOptions,
    input_shape: tuple[int, int, int],
    device: torch.device,
    ranks: Ranks = ALONE,
) -> RecipeSettings:
    """Work and step sizes of the recipe, the method and the device.

    Args:
        options: ``recipe``, ``precision``, ``method_name`` and the inner weights' bits are read.
        input_shape: ``(C, H, W)`` of one image.
        device: to train on.
        ranks: that share the run. They may be of two kinds of machine and take the same steps all
            the same: the first one's.
    """
    quick = ranks.on_first(lambda: trains_quickly(device, options.precision == "auto"))
    settings = recipe_settings(options.recipe, input_shape, quick)
    return method_settings(options.method_name, settings, options.scheme.weight_bits)
