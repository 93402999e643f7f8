"""``--help`` of commands with many options: in groups, with an example at the end.

Typer groups options by ``rich_help_panel`` in its boxed help alone, which loads rich.
"""

from typing import Any

from typer.core import TyperCommand

__all__ = ["EXAMPLES", "GROUPS", "GroupedCommand"]

GROUPS: dict[str, tuple[str, ...]] = {
    "Network": ("arch", "input_shape", "mean", "std", "output", "task", "trust_pickle"),
    "Widths and runtimes": (
        "bits",
        "weight_bits",
        "act_bits",
        "edge_bits",
        "residual_bits",
        "target_size",
        "act_symmetry",
        "depthwise",
        "int4_linear",
        "target",
    ),
    "Images": ("images",),
    "Method and research": (
        "recipe",
        "method",
        "long_range",
        "margin",
        "decoupled",
        "device",
        "precision",
        "compile",
        "seed",
    ),
    "Long runs": ("cache", "resume", "checkpoint_every", "max_memory"),
    "Output": ("out", "force", "bench", "require_ship", "config", "json", "quiet"),
}
"""Parameters by the title that they stand under; what is in none stands under Options."""

EXAMPLES = {
    "quantize": (
        "lrq-deploy quantize resnet20.pt --arch resnet_cifar.py:resnet20 --input-shape 3,32,32",
        "  --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --bits 4 --images cifar10/test",
    ),
    "plan": ("lrq-deploy plan resnet18.pt --arch torchvision:resnet18 --bits 4",),
}
"""By command; lines of what one would type."""


class GroupedCommand(TyperCommand):
    """A command whose ``--help`` stands in ``GROUPS``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section per group, each in its own order."""
        sections: dict[str, dict[str, tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                name = str(parameter.name)
                rest = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = next((t for t, names in GROUPS.items() if name in names), rest)
                sections.setdefault(title, {})[name] = record
        for title in ("Arguments", *GROUPS, "Options"):
            records = sections.get(title, {})
            names = GROUPS.get(title, tuple(records))
            if records:
                with formatter.section(title):
                    formatter.write_dl([records[name] for name in names if name in records])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example."""
        lines = EXAMPLES.get(str(ctx.info_name), ())
        if lines:
            with formatter.section("Example"):
                # Every line as it is, so that it can be copied.
                for line in lines[:-1]:
                    formatter.write(f"  {line} \\\n")
                formatter.write(f"  {lines[-1]}\n")
