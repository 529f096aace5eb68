"""Shapes in annotations are checked while the tests run, and cost nothing where the library is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from ciao_peft import CIAOConfig, labels
from ciao_peft.heads import DecisionHead, pool_map
from ciao_peft.inhibition import InhibitoryLayer
from ciao_peft.losses import concordance_loss, task_loss, total_loss
from helpers import shapes
from helpers.places import REPOSITORY

CLASSES = CIAOConfig(problem_type="single_label_classification", num_labels=3, hidden_sizes=(4,))
LAYER = InhibitoryLayer(nn.Sequential(nn.Conv2d(2, 4, 3)), num_channels=4)

WRONG = {
    "one row of embeddings too few": lambda: total_loss(
        torch.rand(4, 3), torch.rand(3, 8), torch.arange(4) % 3, CLASSES
    ),
    "one label too many": lambda: task_loss(torch.rand(4, 3), torch.arange(5) % 3, CLASSES),
    "class ids that are no whole numbers": lambda: task_loss(torch.rand(4, 3), torch.rand(4), CLASSES),
    "predictions of one value, labels of two": lambda: concordance_loss(torch.rand(4, 1), torch.rand(4, 2)),
    "one value without its dimension": lambda: labels.discretise(torch.rand(4), 2, (0.0, 1.0)),
    "a map without its batch": lambda: pool_map(torch.rand(8, 6, 6), "avg"),
    "a map that was not pooled": lambda: DecisionHead(8, CLASSES)(torch.rand(2, 8, 1, 1)),
    "features of another batch": lambda: LAYER(torch.rand(2, 2, 6, 6), torch.rand(3, 4, 4, 4)),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_refused_while_the_tests_run(call):
    with pytest.raises(TypeCheckError, match="Type-check error whilst checking the parameters"):
        call()


def test_a_wrong_shape_that_comes_back_is_refused_too(monkeypatch):
    monkeypatch.setattr(labels, "_row_ids", lambda rows, base: rows)
    with pytest.raises(TypeCheckError, match="Type-check error whilst checking the return value"):
        labels.discretise(torch.rand(4, 2), 2, (0.0, 1.0))


def test_every_module_of_the_mathematics_is_checked():
    for name in shapes.CHECKED:
        importlib.import_module(name)
        assert type(sys.modules[name].__spec__.loader).__name__ == "_JaxtypingLoader", name


def test_shape_checks_can_be_off_for_a_while():
    with shapes.off():
        assert pool_map(torch.rand(8, 6, 6, 1, 1), "avg").shape == (8, 6, 1)
    with pytest.raises(TypeCheckError):
        pool_map(torch.rand(8, 6, 6, 1, 1), "avg")


def test_without_the_tests_nothing_is_checked_and_jaxtyping_is_not_imported():
    code = (
        "import sys, typing, torch; from ciao_peft.heads import pool_map; import ciao_peft.losses, ciao_peft.metrics\n"
        "assert pool_map(torch.rand(8, 6, 6, 1, 1), 'avg').shape == (8, 6, 1)\n"
        "assert not {'jaxtyping', 'beartype'} & set(sys.modules)\n"
        "assert typing.get_type_hints(pool_map)['return'] is torch.Tensor"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
