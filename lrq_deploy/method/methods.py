"""The methods of ``--method``: named sets of switches and settings over the same parts.

What the literature does is read here as follows; steps, batch sizes, optimisers and
augmentation stay those of the recipe, so that two methods differ in their parts alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import Method, MethodSwitches

__all__ = ["METHODS", "MethodRecipe", "method_settings", "method_switches"]

COARSE_WEIGHT_BITS = 4
"""Below, measured on label-free images, blocks first are worth their time (docs/decisions.md)."""

COARSE_WEIGHT_RATE = 1e-3
"""Of weights of fewer bits, whatever the recipe: one for few steps at 4 bits is too large there."""

_PLAIN_TRAINING: Mapping[str, float] = {
    "refinement_steps": 0,
    "overlay_images": 0,
    "diversity_weight": 0.0,
    # As GDFQ weighs its two terms; every loss of ours is relative, so this is a reading.
    "class_weight": 1.0,
    "statistics_weight": 0.1,
    "feature_weight": 0.0,
    "scale_rate": 0.0,
}
"""Images as drawn; distillation of the logits; scales that stay as calibrated."""


@dataclass(frozen=True)
class MethodRecipe:
    """One method.

    Attributes:
        summary: for ``--help`` and documents.
        switches: parts that are on.
        settings: fields of ``RecipeSettings`` that it fixes, whatever the recipe.
        coarse_blocks: whether blocks are fitted first where weights have fewer bits than
            ``COARSE_WEIGHT_BITS``; rounding to the nearest then moves a network too far for the
            training of the whole to bring it back.
        trains: whether the student is trained; if not, only the images of the range search are
            made besides the held-out ones.
    """

    summary: str
    switches: MethodSwitches
    settings: Mapping[str, float] = field(default_factory=dict)
    coarse_blocks: bool = False
    trains: bool = True


METHODS: Mapping[Method, MethodRecipe] = {
    "lrq": MethodRecipe("this project's default", MethodSwitches(), coarse_blocks=True),
    "lrq-blocks": MethodRecipe(
        "the default's images; rounding learned block by block (BRECQ, QDrop)",
        MethodSwitches(),
        {"block_steps": 300, "student_steps": 0},
    ),
    "leaves": MethodRecipe(
        "painted images instead of a generator: what serves networks without BatchNorm",
        MethodSwitches(margin="off", image_source="leaves"),
        {"generator_steps": 0, "refinement_steps": 0, "overlay_images": 0},
        coarse_blocks=True,
    ),
    "lrq-paper": MethodRecipe(
        "LRQ (arXiv 2211.06816) as its abstract describes it",
        MethodSwitches(long_range=True, margin="a1", decoupled=True, range_search=False),
        _PLAIN_TRAINING,
    ),
    "gdfq": MethodRecipe(
        "in the style of GDFQ (arXiv 2003.03603)",
        MethodSwitches(long_range=False, margin="off", decoupled=False, range_search=False),
        _PLAIN_TRAINING,
    ),
    "zeroq": MethodRecipe(
        "in the style of ZeroQ (arXiv 2001.00281)",
        MethodSwitches(
            long_range=False,
            margin="off",
            decoupled=False,
            image_source="noise",
            range_search=False,
        ),
        {
            "generator_steps": 0,
            "class_weight": 0.0,
            "refinement_steps": 200,
            "refinement_rate": 0.02,
        },
        trains=False,
    ),
    "calibrate": MethodRecipe("our images, ranges only", MethodSwitches(), trains=False),
}


def method_switches(method: Method) -> MethodSwitches:
    """The parts that a method has on."""
    return METHODS[method].switches


def method_settings(method: Method, settings: RecipeSettings, weight_bits: int) -> RecipeSettings:
    """The settings of a recipe with those that the method fixes, for inner weights of a width."""
    chosen = METHODS[method]
    changes: dict[str, float] = dict(chosen.settings)
    if weight_bits < COARSE_WEIGHT_BITS:
        changes["weight_rate"] = COARSE_WEIGHT_RATE
        if chosen.coarse_blocks:
            changes["block_steps"] = settings.coarse_block_steps
    if not chosen.trains:
        fewest = min(settings.pool_images, settings.calibration_images)
        changes |= {"student_steps": 0, "pool_images": fewest, "overlay_images": 0}
    # dataclasses.replace refuses a field that does not exist.
    return replace(settings, **changes)  # type: ignore[arg-type]
