"""The adversarial autoencoder around `prior_knowledge`: shapes and sizes as described, and what each judge hears."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ciao_peft import load_encoder
from ciao_peft.encoders.pretraining.adversarial import (
    Autoencoder,
    IdentityDistance,
    ImageJudge,
    Judges,
    dense_judge,
    discriminator_loss,
)
from ciao_peft.errors import ConfigError

TINY = {"channels": [4, 4, 4, 8]}


@pytest.fixture
def encoder():
    return load_encoder("prior_knowledge", pretrained=False, **TINY)


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("num_conditions", [0, 2])
def test_the_generator_has_the_layers_of_the_description(num_conditions, encoder):
    network = Autoencoder(encoder, 50, num_conditions)
    layers = [layer for layer in network.draw if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [512, 256, 128, 64, 32, 3]
    assert [layer.stride[0] for layer in layers] == [2, 2, 2, 2, 1, 1]
    assert {layer.kernel_size for layer in layers} == {(5, 5)}
    assert network.start[0].in_features == 50 + 50 * num_conditions
    assert network.latent[0].in_features == 8 * 6 * 6


def test_faces_come_back_in_their_size_and_between_minus_one_and_one(encoder):
    network = Autoencoder(encoder, 5, 2, widths=[8, 8, 4, 4, 4])
    drawn, z = network(torch.randn(2, 3, 96, 96), torch.tensor([[1.0, -1.0], [0.0, 0.5]]))
    assert drawn.shape == (2, 3, 96, 96)
    assert drawn.abs().max() <= 1
    assert z.shape == (2, 5)
    assert z.abs().max() <= 1


def test_a_condition_stands_beside_z_as_often_as_z_has_numbers(encoder):
    network = Autoencoder(encoder, 3, 2, widths=[8, 8, 4, 4, 4])
    seen = []
    network.start.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.generate(torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.5, -0.5]]))
    assert seen[0].tolist()[0] == pytest.approx([0.1, 0.2, 0.3, 0.5, 0.5, 0.5, -0.5, -0.5, -0.5])


def test_the_judges_have_the_sizes_of_the_description():
    dense = [50, 64, 32, 16]
    expected = sum(a * b + b for a, b in itertools.pairwise(dense))
    assert size(dense_judge(50)) == expected + 17
    assert size(dense_judge(50, 2)) == expected + 2 * 17
    for num_conditions in (0, 2):
        widths = [3 + num_conditions, 16, 32, 64, 128]
        expected = sum(25 * a * b + b for a, b in itertools.pairwise(widths)) + 128 * 6 * 6 + 1
        assert size(ImageJudge((3, 96, 96), num_conditions)) == expected


def test_the_image_judge_hears_what_the_face_is_to_show():
    judges = Judges((3, 96, 96), 5, 2)
    faces, z = torch.randn(2, 3, 96, 96), torch.rand(2, 5)
    with torch.no_grad():
        prior, image = judges(faces, z, torch.zeros(2, 2))
        same_prior, other_image = judges(faces, z, torch.ones(2, 2))
    assert prior.shape == image.shape == (2, 1)
    assert torch.equal(prior, same_prior)
    assert not torch.allclose(image, other_image)


def test_a_judge_without_an_opinion_loses_log_2():
    for real in (True, False):
        assert discriminator_loss(torch.zeros(3, 1), real).item() == pytest.approx(math.log(2))
    assert discriminator_loss(torch.full((1, 1), 2.0), True).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_identity_is_compared_at_five_depths_and_the_network_stays_frozen():
    network = load_encoder("small-face")
    own = network.preprocessing
    distance = IdentityDistance(network, shown=own)
    with torch.no_grad():
        one, two = torch.rand(2, 2, 3, 64, 64)
    two.requires_grad_()
    seen = []
    relus = [layer for layer in network.chain.children() if isinstance(layer, nn.ReLU)]
    for relu in [relus[i] for i in (0, 1, 3, 4, 6)]:  # seven of them, at fifths of the way
        relu.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    answer = distance.train()(one, two)
    expected = [(output[:2] - output[2:]).abs().mean().item() for output in seen]
    assert len(expected) == 5
    assert answer.item() == pytest.approx(sum(expected) / 5, rel=1e-5)
    answer.backward()
    assert two.grad.abs().max() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not network.training


def test_pictures_are_prepared_anew_for_the_face_network(encoder):
    distance = IdentityDistance(load_encoder("small-face"), shown=encoder.preprocessing)
    prepared = distance._prepared(torch.ones(1, 3, 96, 96))  # white
    assert prepared.shape == (1, 3, 64, 64)
    assert torch.allclose(prepared, torch.full_like(prepared, (1 - 0.5) / 0.25))


def test_what_cannot_work_is_refused(encoder):
    with pytest.raises(ConfigError, match="must be five numbers"):
        Autoencoder(encoder, widths=[8, 8])
    with pytest.raises(ConfigError, match=r"five depths|at 5 depths; PriorKnowledge has 4 ReLUs"):
        IdentityDistance(encoder, shown=encoder.preprocessing)
