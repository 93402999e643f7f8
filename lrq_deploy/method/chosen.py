"""The steps of a run: what its options make of its recipe and its method."""

from dataclasses import replace

from lrq_deploy.errors import OptionError
from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.options import QuantizeOptions

__all__ = ["chosen_settings"]


def chosen_settings(options: QuantizeOptions, input_shape: tuple[int, int, int]) -> RecipeSettings:
    """Work and step sizes, the same on every device.

    Args:
        options: ``recipe``, ``method_name``, ``precision``, ``compile`` and the inner weights' bits
            are read.
        input_shape: ``(C, H, W)`` of one image.

    Raises:
        OptionError: ``compile`` has nothing to compile.
    """
    recipe = recipe_settings(options.recipe, input_shape)
    settings = method_settings(options.method_name, recipe, options.scheme.weight_bits)
    if options.compile and not settings.student_steps:
        raise OptionError(
            "--compile needs a method that trains the whole student",
            f"--method {options.method_name}, which does not",
            "leave --compile out, or pass --method lrq",
        )
    return replace(
        settings,
        reduced_precision=options.precision == "auto",
        compiled=options.compile,
    )
