"""The method that a network allows: not each has what a generator learns from."""

from dataclasses import replace

from lrq_deploy.errors import OptionError
from lrq_deploy.graph.statistics import batch_norms, last_linear
from lrq_deploy.method.methods import check_read, usual_switches
from lrq_deploy.options import Method, QuantizeOptions
from lrq_deploy.teacher import Teacher

__all__ = ["default_method", "suited"]


def default_method(teacher: Teacher) -> Method:
    """What a run without ``--method`` takes."""
    return "lrq" if batch_norms(teacher.graph) else "leaves"


def suited(options: QuantizeOptions, teacher: Teacher) -> QuantizeOptions:
    """The options with a method that can make images for this teacher.

    The default method takes painted images where there is no BatchNorm to train a generator on.

    Raises:
        OptionError: another method was asked for, or a part that is not there, or nobody knows how
            pixels are normalised.
    """
    name = options.method_name
    if default_method(teacher) == "leaves":
        if name == "lrq":
            check_read("leaves", options.method, usual_switches("lrq", options.task))
            method = replace(options.method, image_source="leaves")
            options = replace(options, method_name="leaves", method=method)
        elif options.method.image_source != "leaves":
            raise OptionError(
                f"--method {name} makes images from the statistics of BatchNorm layers",
                "a network without one",
                "pass --method leaves, which paints images without them",
            )
    if options.method.image_source == "leaves" and not teacher.preprocessing.known:
        raise OptionError(
            "painted images, all there are without BatchNorm, need the range of the pixels",
            "neither --mean nor --std",
            "pass both, in units of the 0..1 pixel range",
        )
    usual = usual_switches(name, options.task).margin
    if options.method.margin not in {usual, "off"} and last_linear(teacher.graph) is None:
        raise OptionError(
            f"--margin {options.method.margin} needs class centres: rows of a last linear layer",
            f"{teacher.name}, which ends otherwise",
            "leave out --margin",
        )
    return options
