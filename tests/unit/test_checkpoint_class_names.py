"""Names of classes beside weights: every usual form, and what is none."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.small_networks import Residual

from lrq_deploy.checkpoint.class_names import stated_class_names
from lrq_deploy.checkpoint.read import read_state_dict
from lrq_deploy.inspection.inspect import inspect_model

pytestmark = pytest.mark.unit

NAMES = ("owl", "bee", "cat")
BY_NAME = {"bee": 1, "owl": 0, "cat": 2}


@pytest.mark.parametrize(
    "entries",
    [
        {"class_to_idx": BY_NAME},
        {"label2id": BY_NAME},
        {"idx_to_class": {2: "cat", 0: "owl", 1: "bee"}},
        {"id2label": {"2": "cat", "0": "owl", "1": "bee"}},
        {"classes": list(NAMES)},
        {"class_names": NAMES},
        {"epoch": 3, "classes": 3, "labels": list(NAMES)},
        {"args": argparse.Namespace(lr=0.1, classes=list(NAMES))},
        {"hyper_parameters": {"class_to_idx": BY_NAME}},
        {"class_to_idx": {"bee": 0}, "classes": list(NAMES), "class_to_index": {"bee": 2}},
    ],
)
def test_every_usual_form_is_read(entries: dict[str, Any]) -> None:
    expected = ("bee",) if entries.get("class_to_idx") == {"bee": 0} else NAMES
    assert stated_class_names(entries) == expected


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"class_to_idx": {"owl": 0, "bee": 2}},
        {"class_to_idx": {"owl": 0, "bee": 0}},
        {"class_to_idx": {"owl": 0.0, "bee": 1.0}},
        {"class_to_idx": {"owl": False, "bee": True}},
        {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
        {"id2label": {"0": "owl", "00": "bee"}},
        {"id2label": {"0": "owl", "x": "bee"}},
        {"id2label": {(0, 1): "owl"}},
        {"idx_to_class": {1: "owl", 2: "bee"}},
        {"classes": ["owl", "Owl"]},
        {"classes": ["owl", ""]},
        {"classes": ["owl", "bee\n"]},
        {"classes": ["owl", 3]},
        {"classes": "owl"},
        {"classes": ["x" * 201]},
        {"labels": torch.arange(3)},
        [1, 2],
        None,
    ],
)
def test_what_tells_no_classes_apart_is_passed_over(entries: object) -> None:
    assert stated_class_names(entries) == ()


@given(order=st.permutations(range(12)))
def test_a_number_per_name_is_an_order(order: list[int]) -> None:
    names = stated_class_names({"class_to_idx": {f"c{n}": n for n in order}})
    assert names == tuple(f"c{n}" for n in range(12))


@pytest.mark.parametrize("whole", [False, True], ids=["beside", "attribute"])
def test_reading_and_inspecting_find_the_same(tmp_path: Path, whole: bool) -> None:
    network = Residual()
    names = [f"name {index}" for index in range(network(torch.zeros(2, 3, 12, 12)).shape[1])]
    if whole:
        network.__dict__["class_names"] = names
        torch.save(network, tmp_path / "model.pt")
    else:
        torch.save({"model": network.state_dict(), "classes": names}, tmp_path / "model.pt")
    assert read_state_dict(tmp_path / "model.pt", trust_pickle=whole).class_names == tuple(names)
    assert inspect_model(tmp_path / "model.pt").class_names == tuple(names)


def test_names_of_other_classes_than_the_file_has_are_not_shown(tmp_path: Path) -> None:
    torch.save({"model": Residual().state_dict(), "classes": list("ab")}, tmp_path / "model.pt")
    assert inspect_model(tmp_path / "model.pt").class_names == ()
