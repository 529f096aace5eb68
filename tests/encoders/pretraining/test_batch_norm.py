"""Batch normalisation for training only: put in, worked into the convolutions, gone without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ciao_peft import load_encoder
from ciao_peft.encoders.pretraining.batch_norm import add_batch_norm, fold_batch_norm
from ciao_peft.errors import ConfigError


def convolution(before, after, **settings):
    return nn.Conv2d(before, after, 3, padding=1, **settings)


def nested():
    """A chain in a chain, a convolution that goes into no ReLU, and a normalisation of the network's own."""
    inner = nn.Sequential(convolution(4, 6, stride=2, groups=2), nn.ReLU(), convolution(6, 6))
    own = nn.Sequential(convolution(6, 5, bias=False), nn.BatchNorm2d(5))
    return nn.Sequential(convolution(3, 4), nn.ReLU(), inner, own, nn.ReLU(), nn.Flatten())


def disturbed(network):
    """What training does: gains and shifts that are not 1 and 0, statistics that are not those of the start."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.1, 3)
    return network


def shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "put_in", "size"),
    [
        (nested, 2, 8),
        (lambda: load_encoder("prior_knowledge", pretrained=False, channels=[4, 4, 4, 8]), 4, 96),
        (lambda: load_encoder("vggface2", pretrained=False, channels=[4, 6, "pool", 8]), 3, 96),
    ],
    ids=["nested", "prior_knowledge", "vggface2"],
)
def test_the_folded_network_answers_as_the_normalised_one_and_has_the_keys_of_the_first(make, put_in, size):
    network, pixel_values = make().double(), torch.randn(3, 3, size, size, dtype=torch.float64)
    before = shapes(network)
    assert add_batch_norm(network) == put_in
    network(pixel_values)  # in training mode where it was made so: statistics move
    disturbed(network).eval()
    with torch.no_grad():
        expected = network(pixel_values)
        folded = fold_batch_norm(network)
        torch.testing.assert_close(folded(pixel_values), expected, rtol=1e-12, atol=1e-12)
    assert folded is network
    assert shapes(network) == before
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_is_put_in_normalises_by_the_batch():
    network = nn.Sequential(convolution(3, 4), nn.ReLU())
    add_batch_norm(network)
    maps = network[0](5 + 3 * torch.randn(8, 3, 6, 6))
    torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.var(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_normalisation_has_the_dtype_and_the_mode_of_its_convolution(training):
    network = nn.Sequential(convolution(3, 4), nn.ReLU()).to(torch.bfloat16).train(training)
    add_batch_norm(network)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert all(module.training == training for module in network.modules())


def test_normalisation_of_the_networks_own_stays():
    network = disturbed(nested())
    before = copy.deepcopy(network.state_dict())
    fold_batch_norm(network)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_without_such_a_convolution_nothing_is_put_in():
    network = nn.Sequential(convolution(3, 4), nn.BatchNorm2d(4), nn.ReLU())
    with pytest.raises(ConfigError, match=r"Sequential has no convolution that goes straight into a ReLU"):
        add_batch_norm(network)
    assert len(network) == 3


def test_a_convolution_without_bias_is_refused_before_anything_changes():
    network = nn.Sequential(convolution(3, 4), nn.ReLU(), nn.Sequential(convolution(4, 4, bias=False), nn.ReLU()))
    before = shapes(network)
    with pytest.raises(ConfigError, match=r"The convolution 0 of '2' .* has no bias.*`bias=True`"):
        add_batch_norm(network)
    assert shapes(network) == before
