"""From the user's model file and options to a network with its weights."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.optim.swa_utils import AveragedModel

from lrq_deploy.architecture.named import Architecture, build_architecture, trained_as
from lrq_deploy.architecture.transformers_network import load_transformers
from lrq_deploy.checkpoint.class_names import stated_class_names
from lrq_deploy.checkpoint.export_archive import read_export_archive
from lrq_deploy.checkpoint.fit import fit_state_dict
from lrq_deploy.checkpoint.hub_config import HubConfig, names_of, read_hub_config
from lrq_deploy.checkpoint.identify import CheckpointFile, identify
from lrq_deploy.checkpoint.lazy import refuse_lazy
from lrq_deploy.checkpoint.naming import classes_of_shapes
from lrq_deploy.checkpoint.quantized import refuse_quantized
from lrq_deploy.checkpoint.read import StateDict, check_finite, read_state_dict
from lrq_deploy.checkpoint.torchscript import TRUST, read_script
from lrq_deploy.checkpoint.transformers_config import read_transformers_config
from lrq_deploy.checkpoint.weights_folder import weights_file
from lrq_deploy.errors import CheckpointError, LrqError, OptionError
from lrq_deploy.graph.scripted import ScriptedNetwork
from lrq_deploy.inspection.advice import advise, shown_differences
from lrq_deploy.inspection.inspect import inspect_model
from lrq_deploy.inspection.matching import find_architectures
from lrq_deploy.options import QuantizeOptions
from lrq_deploy.teacher import Preprocessing

__all__ = ["LoadedModel", "adopt_module", "load_model"]

Shape = tuple[int, int, int]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""Of a network, which they call ``module``."""


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, before it is captured.

    Attributes:
        program: ``[N, C, H, W] -> [N, classes]``; a module is in evaluation mode, float32.
        input_shape: ``(C, H, W)``.
        preprocessing: normalisation of the input.
        name: for reports.
        origin: where the weights came from, for reports.
        remarks: on the weights, which the user should know.
        class_names: that the file or one beside it states, as they are; empty without.
    """

    program: nn.Module | ExportedProgram
    input_shape: Shape
    preprocessing: Preprocessing
    name: str
    origin: str
    remarks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def load_model(options: QuantizeOptions) -> LoadedModel:
    """Read the model file and build what it belongs to.

    What the options say goes before what timm's or transformers' files beside the weights say,
    which goes before what the architecture's name tells, and that before mean 0 and std 1, marked
    as not known.

    Raises:
        OptionError: an option is missing, or contradicts the file.
        CheckpointError: the file cannot be read, is not trusted, or does not fit.
    """
    options = replace(options, model=weights_file(options.model))
    file = identify(options.model)
    if file.kind == "export-archive":
        return _load_archive(options, file)
    if file.kind == "torchscript" and options.trust_pickle and options.arch is None:
        return _load_script(options, read_script(file), f"TorchScript {options.model.name}")
    weights = read_state_dict(options.model, options.trust_pickle)
    origin, class_names = weights.origin, weights.class_names
    config = read_hub_config(options.model)
    described = read_transformers_config(options.model) if options.arch is None else None
    if options.arch is None and weights.module is not None:
        architecture = Architecture(weights.module, options.model.stem)
    elif described is not None:
        told = None not in (options.mean, options.std, options.input_shape)
        architecture = load_transformers(described, weights.tensors, images_known=told)
        origin += f", the {described.network} of the config.json beside it"
        class_names = class_names or described.class_names
    else:
        spec = options.arch or _recognised(options, weights, file, config)
        architecture = _fitted(spec, weights)
        origin += "" if options.arch else f", recognised as {spec}"
        if config is not None and config.architecture == architecture.name:
            architecture = trained_as(architecture, config.known())
            origin += ", with the config.json beside it"
            class_names = class_names or config.class_names
    input_shape = _known_shape(
        options.input_shape or architecture.input_shape, f"{options.arch or options.model}"
    )
    return LoadedModel(
        program=architecture.module,
        input_shape=input_shape,
        preprocessing=_preprocessing(options, input_shape, architecture),
        name=architecture.name,
        origin=origin,
        remarks=() if weights.averaged is None else (weights.averaged.remark(),),
        class_names=class_names,
    )


def adopt_module(network: nn.Module, options: QuantizeOptions) -> LoadedModel:
    """Take a trained network from memory; ``options.model`` names it and is not read.

    Works on a float32 copy on the CPU in evaluation mode; ``network`` stays as it is.

    Raises:
        OptionError: the input shape is missing, or the mean has another number of channels.
        CheckpointError: NaN or infinite weights, no module, or one that cannot be copied.
    """
    name = str(options.model)
    if options.input_shape is None:
        raise OptionError(
            "a network in memory needs input_shape",
            f"{name} without it",
            "pass input_shape=(C, H, W), for instance (3, 224, 224)",
        )
    network = _unwrapped(network)
    refuse_quantized(network, name)
    refuse_lazy(network, name)
    module = (
        ScriptedNetwork.copy_of(network)
        if isinstance(network, torch.jit.ScriptModule)
        else _copied(network, name)
    )
    check_finite(network.state_dict(), name)
    preprocessing = _preprocessing(options, options.input_shape, None)
    return LoadedModel(
        module,
        options.input_shape,
        preprocessing,
        name,
        f"{name} in memory",
        class_names=stated_class_names(network),
    )


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(network).cpu().float().eval()
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(
            "a network in memory must hold its weights and be one that copy.deepcopy copies",
            f"{name}, where it raises {type(error).__name__}: {error!s:.120}",
            "take off what forward passes left in it and the old weight_norm "
            "(torch.nn.utils.remove_weight_norm), or pass a checkpoint file",
        ) from error


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of DataParallel, its like, AveragedModel and torch.compile."""
    while True:
        inner = getattr(network, "_orig_mod", None)
        if isinstance(network, _WRAPPERS):
            inner = network.module
        if not isinstance(inner, nn.Module):
            break
        network = inner
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            "the network must be a module, which torch.export can trace",
            type(network).__name__,
            "pass the module that it was made from, or a torch.export archive of that",
        )
    return network


def _load_script(
    options: QuantizeOptions, script: torch.jit.ScriptModule, origin: str
) -> LoadedModel:
    """The program that an archive holds, instead of one that its weights fit."""
    input_shape = _known_shape(options.input_shape, origin)
    refuse_quantized(script, origin)
    program = ScriptedNetwork(script)
    check_finite(program.stored(), origin)
    preprocessing = _preprocessing(options, input_shape, None)
    return LoadedModel(program, input_shape, preprocessing, options.model.stem, origin)


def _known_shape(shape: Shape | None, source: str) -> Shape:
    if shape is None:
        raise OptionError(
            "the input shape must be known",
            f"{source}, which does not tell it",
            "pass --input-shape C,H,W, for instance 3,224,224",
        )
    return shape


def _recognised(
    options: QuantizeOptions, weights: StateDict, file: CheckpointFile, config: HubConfig | None
) -> str:
    """``--arch`` of the known network that the weights fit, alone or by what is said of them."""
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    match = find_architectures(shapes, stated=names_of(weights.stated, config))
    if match.chosen is not None:
        return match.chosen.spec
    rule = "a state dict needs --arch unless exactly one known network fits it"
    or_trust = f"; or, {TRUST}" if file.kind == "torchscript" else ""
    fits = [candidate.spec for candidate in match.candidates]
    if fits:
        raise OptionError(
            rule,
            f"{options.model}, which fits {', '.join(fits)}: {match.reason}",
            f"pass --arch with the one that was trained, for instance --arch {fits[0]}" + or_trust,
        )
    differences = shown_differences(match.near) if match.near else ()
    told = f": {'; '.join(differences)}" if differences else ""
    raise OptionError(
        rule,
        f"{options.model} alone, and {match.reason}{told}",
        advise(inspect_model(options.model)).remedy() + or_trust,
    )


def _fitted(spec: str, weights: StateDict) -> Architecture:
    inferred = classes_of_shapes({name: t.shape for name, t in weights.tensors.items()})
    first_error: LrqError | None = None
    # A factory's own default may be right where the guess from the weights is not.
    for num_classes in dict.fromkeys((inferred, None)):
        try:
            architecture = build_architecture(spec, num_classes)
            fit_state_dict(
                architecture.module,
                weights.tensors,
                architecture.optional_prefixes,
                spec,
                weights.source,
            )
        except CheckpointError as error:
            first_error = first_error or error
        except OptionError as error:
            raise first_error or error from None
        else:
            return architecture
    raise first_error or OptionError("--arch must build a network", spec, "check it")


def _preprocessing(
    options: QuantizeOptions, input_shape: Shape, architecture: Architecture | None
) -> Preprocessing:
    channels = input_shape[0]
    told = architecture if architecture and architecture.input_shape == input_shape else None
    resize = told.resize if told else None
    resampled = architecture.interpolation if architecture else "bilinear"
    if options.mean is not None and options.std is not None:
        if len(options.mean) != channels:
            raise OptionError(
                "mean and std must have one value per input channel",
                f"{len(options.mean)} values for {channels} channels",
                "pass as many as the input has channels",
            )
        return Preprocessing(options.mean, options.std, True, resize, resampled)
    mean = architecture.mean if architecture else None
    std = architecture.std if architecture else None
    if mean is not None and std is not None and len(mean) == channels:
        return Preprocessing(mean, std, True, resize, resampled)
    return Preprocessing((0.0,) * channels, (1.0,) * channels, False, resize, resampled)


def _load_archive(options: QuantizeOptions, file: CheckpointFile) -> LoadedModel:
    if options.arch is not None:
        raise OptionError(
            "a torch.export archive carries its own network",
            f"--arch {options.arch} with {options.model}",
            "leave out --arch",
        )
    program = read_export_archive(file, options.trust_pickle)
    input_shape = _archive_input_shape(program, options)
    return LoadedModel(
        program=program,
        input_shape=input_shape,
        preprocessing=_preprocessing(options, input_shape, None),
        name=options.model.stem,
        origin=f"torch.export archive {options.model.name}",
    )


def _archive_input_shape(program: ExportedProgram, options: QuantizeOptions) -> Shape:
    names = [
        getattr(spec.arg, "name", "")
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.USER_INPUT
    ]
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].dim() != 4:
        shapes = ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else str(v) for v in values)
        raise CheckpointError(
            "the exported network must take one image batch [N, C, H, W]",
            f"{options.model} with {len(names)} inputs ({shapes})",
            "export an image classifier",
        )
    return _agreed_shape(tuple(values[0].shape[1:]), options)


def _agreed_shape(stated: tuple[int | torch.SymInt, ...], options: QuantizeOptions) -> Shape:
    """The archive's ``(C, H, W)``; its dynamic sides come from the option."""
    given = options.input_shape
    text = ",".join(str(n) for n in stated)
    if given is None:
        fixed = [n for n in stated if isinstance(n, int)]
        if len(fixed) != 3:
            raise OptionError(
                "the input shape must be known",
                f"{options.model}, exported with dynamic sides {text}",
                "pass --input-shape C,H,W",
            )
        return fixed[0], fixed[1], fixed[2]
    if any(isinstance(n, int) and n != g for n, g in zip(stated, given, strict=True)):
        raise OptionError(
            "--input-shape must be the shape that the archive was exported with",
            f"{','.join(str(n) for n in given)} for {options.model} of {text}",
            "leave out --input-shape",
        )
    return given
