"""What every command that computes needs first: the device and the teacher."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lrq_deploy.checkpoint.fingerprint import fingerprint
from lrq_deploy.errors import OptionError
from lrq_deploy.graph.probabilities import probability_remark
from lrq_deploy.graph.teach import make_teacher
from lrq_deploy.launch import launch
from lrq_deploy.loading import adopt_module, load_model
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.teacher import Teacher

__all__ = ["chosen_device", "load_teacher"]


def chosen_device(choice: str) -> torch.device:
    """The device of ``--device``; processes of one machine take one CUDA device each.

    Raises:
        OptionError: CUDA is asked for and not there, or has too few devices.
    """
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise OptionError(
            "--device cuda needs a CUDA device that this torch can use",
            f"none (torch {torch.__version__})",
            "pass --device cpu, or install a driver and a CUDA build of torch",
        )
    if not available or choice == "cpu":
        return torch.device("cpu")
    launched, devices = launch(), torch.cuda.device_count()
    if launched.count == 1:
        return torch.device("cuda")
    if launched.local_count > devices:
        raise OptionError(
            "each process on a machine needs a CUDA device of its own",
            f"{launched.local_count} processes and {devices} devices",
            f"pass --nproc-per-node {devices}, or --device cpu",
        )
    torch.cuda.set_device(launched.local_rank)
    return torch.device("cuda", launched.local_rank)


def load_teacher(options: QuantizeOptions, network: nn.Module | None = None) -> Teacher:
    """The captured network.

    Args:
        options: of the run.
        network: in memory; ``options.model`` then only names it.

    Raises:
        LrqError: the model cannot be used.
    """
    loaded = load_model(options) if network is None else adopt_module(network, options)
    teacher = make_teacher(
        loaded.program,
        loaded.input_shape,
        loaded.preprocessing,
        loaded.name,
        output=options.output,
        task=options.task,
    )
    # A script keeps its tensors, and frozen ones are in its code: the graph holds them all.
    weights = _state(loaded.program) or teacher.graph.state_dict()
    named = len(loaded.class_names) == teacher.num_classes
    ending = probability_remark(loaded.program, teacher)
    return replace(
        teacher,
        fingerprint=fingerprint(weights),
        remarks=(*loaded.remarks, *([ending] if ending else [])),
        class_names=loaded.class_names if named else (),
    )


def _state(program: nn.Module | ExportedProgram) -> dict[str, Tensor]:
    state = program.state_dict
    return dict(state() if callable(state) else state)
