"""Declarations of the command line options, shared by the commands that take them."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from lrq_deploy import options, scheme, task
from lrq_deploy.options import MethodSwitches

__all__ = [
    "ActBits",
    "ActSymmetry",
    "Arch",
    "Bench",
    "Bits",
    "Cache",
    "CheckpointEvery",
    "Compile",
    "Config",
    "Decoupled",
    "DemoOut",
    "Depthwise",
    "Device",
    "EdgeBits",
    "Force",
    "Images",
    "InputShape",
    "Int4Linear",
    "Json",
    "LongRange",
    "Margin",
    "MaxMemory",
    "Mean",
    "Method",
    "Model",
    "Out",
    "Output",
    "PlannedBits",
    "Precision",
    "Quiet",
    "Recipe",
    "RequireShip",
    "ResidualBits",
    "Resume",
    "Seed",
    "Std",
    "Target",
    "TargetSize",
    "Task",
    "TrustPickle",
    "WeightBits",
]

_SWITCHES = MethodSwitches()


def _choice(of: Any) -> str:
    """The values of a ``Literal`` as a metavar."""
    return "|".join(get_args(of))


def _on(switch: bool) -> str:
    return "on" if switch else "off"


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="A state dict (.pt, .pth, .th, .safetensors; with --arch unless exactly one known "
        "network fits), a torch.export archive, TorchScript, or a whole module in a pickle, "
        "which needs --trust-pickle; or a folder with one such file.",
    ),
]

PlannedBits = Annotated[
    str,
    typer.Option(
        "--bits",
        metavar="2..8",
        help="Weights and activations of the inner layers.",
    ),
]
Bits = Annotated[
    str | None,
    typer.Option(
        "--bits",
        metavar="2..8|mixed",
        help="Weights and activations of the inner layers; mixed needs --target-size. Required "
        "unless both --weight-bits and --act-bits are given.",
    ),
]
TargetSize = Annotated[
    float | None,
    typer.Option(
        "--target-size",
        metavar="MB",
        help="With --bits mixed: largest model.onnx, in millions of bytes.",
    ),
]
WeightBits = Annotated[
    int | None,
    typer.Option(
        "--weight-bits",
        metavar="2..8",
        help="Weights only; overrides --bits.",
    ),
]
ActBits = Annotated[
    int | None,
    typer.Option(
        "--act-bits",
        metavar="2..8",
        help="Activations only; overrides --bits.",
    ),
]
EdgeBits = Annotated[
    str | None,
    typer.Option(
        "--edge-bits",
        metavar="2..8|same",
        help="First and last layer. Default: 8.",
    ),
]
ResidualBits = Annotated[
    str | None,
    typer.Option(
        "--residual-bits",
        metavar="2..8|same",
        help="Tensors that additions and poolings read. Default: 8.",
    ),
]
ActSymmetry = Annotated[
    str | None,
    typer.Option(
        "--act-symmetry",
        metavar=_choice(scheme.ActSymmetry),
        help="Zero points of activations: all 0, or free. Default: symmetric.",
    ),
]
Depthwise = Annotated[
    str | None,
    typer.Option(
        "--depthwise",
        metavar=_choice(scheme.Depthwise),
        help="Convolutions of fewer than 4 channels per group. Default: int8.",
    ),
]
Int4Linear = Annotated[
    bool | None,
    typer.Option(
        "--int4-linear/--no-int4-linear",
        help="Linear layers of INT4 weights and float inputs, for TensorRT.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="auto|onnxruntime|tensorrt|all",
        help="Runtimes to write graphs for. Default: all that can run the zero points.",
    ),
]

Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="SOURCE:NAME",
        help="torchvision:NAME, timm:NAME or FILE.py:FACTORY. Default: the one known network "
        "that fits. Not for a torch.export archive.",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="C,H,W",
        help="Input of the network, 8 to 512 pixels a side, where its name or archive does not "
        "tell.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="M,...",
        help="Mean per channel that pixels 0..1 were normalised with. Default: as the network's "
        "name or a file beside the weights says, else pixels stay in 0..1, with a warning.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="S,...",
        help="Standard deviation per channel, likewise.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="KEY|INDEX",
        help="Which of several results holds the logits. Default: the only [N, classes], "
        "or the one named logits.",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar=_choice(task.Task),
        help="One class per image, or a yes or no per logit. Default: as the config.json of "
        "transformers beside the weights says, else multiclass.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Images, in one folder per class or without labels. Only to measure.",
    ),
]
TrustPickle = Annotated[
    bool | None,
    typer.Option(
        "--trust-pickle",
        help="Unpickle a whole module, or run TorchScript: any code in the file may run.",
    ),
]

LongRange = Annotated[
    bool | None,
    typer.Option(
        "--long-range/--no-long-range",
        help=f"Large-kernel attention in the generator. Default: {_on(_SWITCHES.long_range)}.",
    ),
]
Margin = Annotated[
    str | None,
    typer.Option(
        "--margin",
        metavar=_choice(options.MarginMode),
        help="Adversarial Margin Add: a2 opens small angles to the class centre, a1 adds a margin "
        f"in the generator's loss, b in the student's. Default: {_SWITCHES.margin}.",
    ),
]
Decoupled = Annotated[
    bool | None,
    typer.Option(
        "--decoupled/--no-decoupled",
        help=f"Decoupled distillation, or plain. Default: {_on(_SWITCHES.decoupled)}.",
    ),
]

Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar=_choice(options.Method),
        help="lrq: all parts; lrq-blocks: rounding learned block by block; leaves: painted "
        "images; lrq-paper, gdfq, zeroq: in the style of these papers; calibrate: ranges only, no "
        "training. Default: lrq, and leaves where there is no BatchNorm.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar=_choice(options.Recipe),
        help="How much time to spend. Default: balanced.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar=_choice(options.Device), help="Where to train. Default: auto."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar=_choice(options.Precision),
        help="Multiply in bfloat16 while training where that is faster, or never. Default: auto.",
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the student before it is trained; pays for many steps. Default: off.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Seed of everything random. Default: 0."),
]
Bench = Annotated[
    bool | None,
    typer.Option(
        "--bench/--no-bench", help="Time the result against the float network. Default: on."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Bundle to create. Default: runs/MODEL-w4a4."),
]
DemoOut = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the network, the digits, the bundle."),
]
Force = Annotated[
    bool | None,
    typer.Option("--force/--no-force", help="Replace what is already in --out."),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Keep the made images there, and reuse them where nothing they depend on changed.",
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Continue the run for the same --out that was stopped; where there is none, start.",
    ),
]
CheckpointEvery = Annotated[
    float | None,
    typer.Option(
        "--checkpoint-every",
        metavar="SECONDS",
        help="How often the state of training is kept in OUT.run. Default: 60.",
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        "--max-memory",
        metavar="MiB",
        help="Keep the made images on the disk where the process would take more MiB with them.",
    ),
]
RequireShip = Annotated[
    bool | None,
    typer.Option(
        "--require-ship/--no-require-ship",
        help="Fail with exit code 3 where the verdict is not to ship; the bundle stays.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Options by their long names; flags override the file.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON, and progress on stderr."),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No progress, only the result."),
]
