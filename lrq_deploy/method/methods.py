"""The methods of ``--method``: named sets of switches and settings over the same parts.

What the literature does is read here as follows; steps, batch sizes, optimisers and
augmentation stay those of the recipe, so that two methods differ in their parts alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lrq_deploy.errors import OptionError
from lrq_deploy.method.recipe import RecipeSettings
from lrq_deploy.options import Method, MethodSwitches
from lrq_deploy.task import Task

__all__ = ["METHODS", "MethodRecipe", "check_read", "method_settings", "usual_switches"]

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
        switches: parts that are on.
        settings: fields of ``RecipeSettings`` that it fixes, whatever the recipe.
        coarse_blocks: whether blocks are fitted first where weights have fewer bits than
            ``COARSE_WEIGHT_BITS``; rounding to the nearest then moves a network too far for the
            training of the whole to bring it back.
        trains: whether the student is trained; if not, only the images of the range search are
            made besides the held-out ones.
    """

    switches: MethodSwitches
    settings: Mapping[str, float] = field(default_factory=dict)
    coarse_blocks: bool = False
    trains: bool = True


METHODS: Mapping[Method, MethodRecipe] = {
    "lrq": MethodRecipe(MethodSwitches(), coarse_blocks=True),
    # The default's images; rounding learned block by block (BRECQ, QDrop).
    "lrq-blocks": MethodRecipe(
        MethodSwitches(),
        {"block_steps": 300, "student_steps": 0},
    ),
    # Painted images instead of a generator: what serves networks without BatchNorm.
    "leaves": MethodRecipe(
        MethodSwitches(margin="off", image_source="leaves"),
        {"generator_steps": 0, "refinement_steps": 0, "overlay_images": 0},
        coarse_blocks=True,
    ),
    # LRQ (arXiv 2211.06816) as its abstract describes it.
    "lrq-paper": MethodRecipe(
        MethodSwitches(long_range=True, margin="a1", decoupled=True, range_search=False),
        _PLAIN_TRAINING,
    ),
    # In the style of GDFQ (arXiv 2003.03603).
    "gdfq": MethodRecipe(
        MethodSwitches(long_range=False, margin="off", decoupled=False, range_search=False),
        _PLAIN_TRAINING,
    ),
    # In the style of ZeroQ (arXiv 2001.00281).
    "zeroq": MethodRecipe(
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
    # The default's images, ranges only.
    "calibrate": MethodRecipe(MethodSwitches(), trains=False),
}


def usual_switches(method: Method, task: Task) -> MethodSwitches:
    """Those of a method; margins and decoupled distillation are about one class alone."""
    usual = METHODS[method].switches
    return replace(usual, margin="off", decoupled=False) if task == "multilabel" else usual


def check_read(method: Method, switches: MethodSwitches, usual: MethodSwitches) -> None:
    """Refuse what would change nothing, because the method lacks the part that reads it.

    Raises:
        OptionError: a switch that is not the usual one is read by nothing.
    """
    chosen = METHODS[method]
    distils = chosen.trains and chosen.settings.get("student_steps") != 0
    no = {True: "", False: "no-"}
    stated = []
    if chosen.switches.image_source != "generator":
        if switches.long_range != usual.long_range:
            stated.append((f"--{no[switches.long_range]}long-range", "trains no generator"))
        if switches.margin != usual.margin and switches.margin in {"a1", "a2"}:
            stated.append((f"--margin {switches.margin}", "trains no generator"))
    if not distils:
        if switches.margin == "b":
            stated.append(("--margin b", "does not train the student as a whole"))
        if switches.decoupled != usual.decoupled:
            flag = f"--{no[switches.decoupled]}decoupled"
            stated.append((flag, "does not train the student as a whole"))
    if stated:
        flag, lack = stated[0]
        raise OptionError(
            f"{flag} must change something",
            f"the method {method}, which {lack}",
            f"leave out {flag}, or choose another --method",
        )


def method_settings(method: Method, settings: RecipeSettings, weight_bits: int) -> RecipeSettings:
    """The settings of a recipe with those that the method fixes, for inner weights of a width."""
    chosen = METHODS[method]
    changes: dict[str, float] = dict(chosen.settings)
    if weight_bits < COARSE_WEIGHT_BITS:
        changes["weight_rate"] = COARSE_WEIGHT_RATE
        # Weights move as far in as many smaller steps.
        steps = settings.student_steps * settings.weight_rate / COARSE_WEIGHT_RATE
        changes.setdefault("student_steps", round(steps))
        if chosen.coarse_blocks:
            changes["block_steps"] = settings.coarse_block_steps
    if not chosen.trains:
        fewest = min(settings.pool_images, settings.calibration_images)
        changes |= {"student_steps": 0, "pool_images": fewest, "overlay_images": 0}
    # dataclasses.replace refuses a field that does not exist.
    return replace(settings, **changes)  # type: ignore[arg-type]
