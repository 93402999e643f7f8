"""The steps of a run: what its options make of its recipe and its method."""

from dataclasses import replace

from lrq_deploy.errors import OptionError
from lrq_deploy.method.methods import method_settings
from lrq_deploy.method.recipe import RecipeSettings, recipe_settings
from lrq_deploy.options import QuantizeOptions

__all__ = ["chosen_settings"]


def chosen_settings(
    options: QuantizeOptions,
    input_shape: tuple[int, int, int],
    work: RecipeSettings | None = None,
) -> RecipeSettings:
    """Work and step sizes, the same on every device.

    Args:
        options: ``recipe``, ``method_name``, ``precision``, ``compile`` and the inner weights' bits
            are read.
        input_shape: ``(C, H, W)`` of one image.
        work: instead of that of the recipe and the method.

    Raises:
        OptionError: ``compile`` has nothing to compile.
    """
    if work is None:
        recipe = recipe_settings(options.recipe, input_shape)
        work = method_settings(options.method_name, recipe, options.scheme.weight_bits)
    if options.compile and not work.student_steps:
        raise OptionError(
            "--compile needs a method that trains the whole student",
            f"--method {options.method_name}, which does not",
            "leave --compile out, or pass --method lrq",
        )
    return replace(
        work,
        reduced_precision=work.reduced_precision and options.precision == "auto",
        compiled=work.compiled or options.compile,
    )
