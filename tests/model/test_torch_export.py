"""`torch.export` of a model, of `read` and of the trunk: one graph for every batch size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from helpers.fakes import pixels, residual_backbone, small_config, tiny_backbone, train, wrap

pytestmark = pytest.mark.usefixtures("no_shape_checks")


class Called(nn.Module):
    """A call of a model as a module that gives tensors, which is what `torch.export` takes."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *args):
        return self.call(self.model, *args)


def logits(model, x):
    return model(x).logits


def worlds(model, x):
    return model.read(x)


def trunk(model, x):
    return model.extract_features(x, include_excitation=True)


def from_features(model, *features):
    return model(features=features).logits


def exported(called, *args):
    batch = torch.export.Dim("batch")
    return torch.export.export(called, args, dynamic_shapes=(tuple({0: batch} for _ in args),)).module()


def two_worlds(make):
    model = wrap(make(), "classes", num_labels=5)
    model.add_adapter("values", small_config(problem_type="regression", num_labels=2, inhibition_rank=2))
    return train(train(model, "classes"), "values").eval()


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone])
@pytest.mark.parametrize("call", [logits, worlds, trunk])
def test_a_graph_made_with_three_rows_reads_any_number(make, call):
    called = Called(two_worlds(make), call)
    graph = exported(called, pixels(3))
    for rows in (1, 2, 17):
        x = pixels(rows, seed=rows)
        for got, expected in zip(tree_leaves(graph(x)), tree_leaves(called(x)), strict=True):
            assert got.shape == expected.shape
            assert torch.allclose(got, expected, atol=1e-6)


def test_a_graph_reads_features_of_any_number_of_rows():
    model = two_worlds(residual_backbone)
    graph = exported(Called(model, from_features), *model.extract_features(pixels(3)))
    for rows in (1, 17):
        x = pixels(rows)
        assert torch.allclose(graph(*model.extract_features(x)), model(x).logits, atol=1e-6)
