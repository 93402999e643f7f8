"""Files of models for tests, the options that read them, and what they answer."""

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from lrq_deploy.options import QuantizeOptions


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 6),
    ).eval()


def write_onnx(path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5, 192], [0.0] * 960)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(nodes, "g", [image], [logits], [weight])
    model = helper.make_model(
        graph, producer_name="acme", opset_imports=[helper.make_opsetid("", 17)]
    )
    model.producer_version = "2.5"
    onnx.save(model, path)


def options_for(folder: Path, model: str = "weights.pt", **changes: Any) -> QuantizeOptions:
    options = QuantizeOptions(model=folder / model, out=folder / "out")
    return dataclasses.replace(options, **changes)


def logits_of(program: object, images: Tensor) -> Tensor:
    assert isinstance(program, nn.Module)
    with torch.no_grad():
        result: Tensor = program(images)
    return result
