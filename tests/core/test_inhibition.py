from __future__ import annotations

import copy
import math
from typing import get_args

import pytest
import torch
from torch import nn

from ciao_peft.config import InhibitionForm
from ciao_peft.errors import InputError
from ciao_peft.inhibition import DECAY_FLOOR, DECAY_START, InhibitoryLayer, LowRankConvolution
from helpers.fakes import tiny_backbone

ACTIVATIONS = [nn.ReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Tanh, None]


def unit(activation=nn.ReLU, norm=True, bias=False, dtype=torch.float32):
    """A frozen conv unit `(B, 3, H, W)` to `(B, 5, H, W)`, in the form the layer takes."""
    generator = torch.Generator().manual_seed(3)
    steps = {"conv": nn.Conv2d(3, 5, 3, padding=1, bias=bias)}
    if norm:
        steps["norm"] = nn.BatchNorm2d(5)
    if activation is not None:
        steps["act"] = activation()
    sequence = nn.Sequential()
    for name, module in steps.items():
        sequence.add_module(name, module)
    for parameter in sequence.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2 + 0.1
    return sequence.eval().requires_grad_(False).to(dtype)


def on_decay(layer, value):
    """Puts `a` at a value, by inverting softplus in float64."""
    above = torch.full_like(layer.raw_decay, value, dtype=torch.float64) - DECAY_FLOOR
    layer.raw_decay.data = (above + torch.log(-torch.expm1(-above))).to(layer.raw_decay.dtype)
    return layer


def silent(layer):
    """The layer with I = 0 everywhere."""
    for parameter in layer.conv.parameters():
        parameter.data.zero_()
    return layer


def test_equation_1_worked_by_hand():
    conv_unit = nn.Sequential()
    conv_unit.add_module("conv", nn.Conv2d(1, 2, 1))
    conv_unit.conv.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    conv_unit.conv.bias.data = torch.tensor([1.0, 0.0])
    layer = InhibitoryLayer(conv_unit, num_channels=2, decay_init=0.5)
    features = torch.tensor([3.0, -1.0]).view(1, 1, 1, 2)
    excitation = torch.tensor([[15.0, 1.0], [8.0, -3.0]]).view(1, 2, 1, 2)
    # I: channel 0: relu(2 * 3 + 1) = 7 and relu(2 * -1 + 1) = 0; channel 1: relu(-3) = 0 and relu(1) = 1.
    expected = torch.tensor([[15 / 7.5, 1 / 0.5], [8 / 0.5, -3 / 1.5]]).view(1, 2, 1, 2)
    torch.testing.assert_close(layer(features, excitation), expected)
    torch.testing.assert_close(layer.gate(features), torch.tensor([[1 / 7.5, 2.0], [2.0, 1 / 1.5]]).view(1, 2, 1, 2))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: getattr(a, "__name__", "none"))
def test_inhibition_is_at_least_zero_whatever_the_activation(activation):
    conv_unit = unit(activation)
    layer = InhibitoryLayer(conv_unit, num_channels=5)
    features = torch.randn(4, 3, 6, 6)
    inhibition = layer.inhibition(features)
    assert inhibition.min() >= 0
    torch.testing.assert_close(inhibition, conv_unit(features).clamp(min=0), rtol=0, atol=0)
    assert (inhibition > 0).any()


FORMS = {
    "divisive": lambda u, a, inhibition: u / (a + inhibition),
    "rescaled": lambda u, a, inhibition: max(1, a) * u / (a + inhibition),  # while `a` is where it started
    "additive": lambda u, a, inhibition: (u + inhibition) / a,
    "subtractive": lambda u, a, inhibition: (u - inhibition) / a,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_worked_by_hand(form):
    conv_unit = nn.Sequential()
    conv_unit.add_module("conv", nn.Conv2d(1, 2, 1))
    conv_unit.conv.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    conv_unit.conv.bias.data = torch.tensor([1.0, 0.0])
    layer = InhibitoryLayer(conv_unit, num_channels=2, decay_init=0.5, form=form)
    features = torch.tensor([3.0, -1.0]).view(1, 1, 1, 2)
    excitation = torch.tensor([[15.0, 1.0], [8.0, -3.0]]).view(1, 2, 1, 2)
    # I is 7 and 0 in channel 0, 0 and 1 in channel 1; a is one half.
    expected = {
        "divisive": [[15 / 7.5, 2.0], [16.0, -2.0]],
        "rescaled": [[15 / 7.5, 2.0], [16.0, -2.0]],  # a starts below 1
        "additive": [[44.0, 2.0], [16.0, -4.0]],
        "subtractive": [[16.0, 2.0], [16.0, -8.0]],
    }[form]
    torch.testing.assert_close(layer(features, excitation), torch.tensor(expected).view(1, 2, 1, 2))
    gate = {
        "divisive": [[1 / 7.5, 2.0], [2.0, 1 / 1.5]],
        "rescaled": [[1 / 7.5, 2.0], [2.0, 1 / 1.5]],
    }.get(form, [[2.0, 2.0], [2.0, 2.0]])
    torch.testing.assert_close(layer.gate(features), torch.tensor(gate).view(1, 2, 1, 2))


def test_u_keeps_its_sign():
    layer = InhibitoryLayer(unit(nn.SiLU), num_channels=5)
    features = torch.randn(4, 3, 6, 6)
    excitation = torch.randn(4, 5, 6, 6)
    assert torch.equal(layer(features, excitation).sign(), excitation.sign())


@pytest.mark.parametrize("form", FORMS)
def test_mask_and_gradients_of_each_form_are_those_of_its_equation(form):
    conv_unit = unit(nn.SiLU, dtype=torch.float64)
    layer = InhibitoryLayer(conv_unit, num_channels=5, decay_init=0.3, form=form).double()
    features = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    excitation = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = FORMS[form](excitation, 0.3, conv_unit(features).clamp(min=0))
    torch.testing.assert_close(layer(features, excitation), expected, rtol=1e-5, atol=1e-6)  # a starts in float32
    names = [name for name, _ in layer.named_parameters()]

    def mask(features, excitation, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (features, excitation))

    assert torch.autograd.gradcheck(mask, (features, excitation, *layer.parameters()))


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no-norm"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: getattr(a, "__name__", "none"))
def test_gradients_are_those_of_the_equation(activation, norm):
    conv_unit = unit(activation, norm=norm, bias=not norm, dtype=torch.float64)
    layer = InhibitoryLayer(conv_unit, num_channels=5, decay_init=0.3).double()
    features = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    excitation = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def mask(features, excitation, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (features, excitation))

    assert torch.autograd.gradcheck(mask, (features, excitation, *layer.parameters()))


def test_the_copy_starts_equal_and_is_a_copy():
    conv_unit = unit()
    layer = InhibitoryLayer(conv_unit, num_channels=5)
    for name, tensor in conv_unit.state_dict().items():
        assert torch.equal(layer.state_dict()[name], tensor), name
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    untouched = unit().state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in conv_unit.state_dict().items())


@pytest.mark.parametrize("decay", [1e-5, 1e-3, 0.1, 1.0, 30.0, 1e6])
def test_decay_starts_where_it_was_set_and_can_be_trained_from_there(decay):
    layer = InhibitoryLayer(unit(), num_channels=5, decay_init=decay)
    assert layer.decay.tolist() == pytest.approx([decay] * 5, rel=1e-4)
    (gradient,) = torch.autograd.grad(layer.decay.sum(), layer.raw_decay)
    assert gradient.isfinite().all()
    assert (gradient > 0).all()


@pytest.mark.parametrize("learning_rate", [1e3, 1e30], ids=["large", "enormous"])
@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["down", "up"])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam], ids=lambda o: o.__name__)
def test_no_step_of_an_optimiser_takes_decay_to_zero(optimiser, direction, learning_rate):
    layer = InhibitoryLayer(unit(), num_channels=5)
    steps = optimiser([layer.raw_decay], lr=learning_rate)
    for _ in range(3):
        steps.zero_grad()
        (direction * layer.decay.sum()).backward()
        steps.step()
    assert (layer.decay > 0).all()
    mask = layer(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4))
    assert mask.isfinite().all()


def test_gradient_reaches_the_copy_and_decay_but_not_the_frozen_unit():
    conv_unit = unit()
    layer = InhibitoryLayer(conv_unit, num_channels=5)
    features = torch.randn(2, 3, 4, 4)
    layer(features, conv_unit(features)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in conv_unit.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("decay", [DECAY_FLOOR * 1.001, 1e-3, 1e6])
@pytest.mark.parametrize("loudness", [0.0, 1e-4, 1.0, 6e4])
def test_outputs_and_gradients_stay_finite_at_the_edges(dtype, decay, loudness, form):
    layer = on_decay(InhibitoryLayer(unit(nn.SiLU, norm=False, dtype=dtype), num_channels=5, form=form), decay)
    features = torch.full((1, 3, 4, 4), loudness, dtype=dtype, requires_grad=True)
    excitation = torch.linspace(-6e4, 6e4, 80).view(1, 5, 4, 4).to(dtype).requires_grad_()
    mask = layer(features, excitation)
    assert mask.dtype == dtype
    assert mask.isfinite().all()
    mask.float().square().mean().sqrt().backward()
    for name, tensor in {**dict(layer.named_parameters()), "features": features, "excitation": excitation}.items():
        assert tensor.grad.isfinite().all(), name


def test_where_the_copy_is_silent_the_mask_is_u_over_a():
    layer = silent(InhibitoryLayer(unit(norm=False), num_channels=5, decay_init=0.25))
    excitation = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(layer(torch.randn(2, 3, 4, 4), excitation), excitation / 0.25)


def test_where_the_copy_is_loud_the_mask_goes_to_zero():
    layer = InhibitoryLayer(unit(nn.ReLU, norm=False), num_channels=5)
    features, excitation = torch.rand(2, 3, 4, 4), torch.ones(2, 5, 4, 4)
    layer.conv.weight.data.abs_()
    masks = [layer(loudness * features, excitation).amax().item() for loudness in (1, 1e2, 1e4, 1e6)]
    assert masks == sorted(masks, reverse=True)
    assert masks[-1] < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_division_runs_in_float32(dtype):
    layer = silent(InhibitoryLayer(unit(norm=False), num_channels=5, decay_init=3.0))
    excitation = torch.linspace(-4, 4, 80).view(1, 5, 4, 4).to(dtype)
    exact = excitation.double() / layer.decay.double().view(-1, 1, 1)
    rounded_once = exact.float().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        mask = layer(torch.zeros(1, 3, 4, 4, dtype=dtype), excitation)
    assert torch.equal(mask, rounded_once)


def test_a_backbone_that_overwrites_its_activations_trains_as_well():
    conv_unit = unit(lambda: nn.SiLU(inplace=True))
    layer = InhibitoryLayer(conv_unit, num_channels=5)
    features = torch.randn(2, 3, 4, 4)
    before = features.clone()
    layer(features, conv_unit(features)).sum().backward()
    assert torch.equal(features, before)
    plain = InhibitoryLayer(unit(nn.SiLU), num_channels=5)
    plain(features, unit(nn.SiLU)(features)).sum().backward()
    torch.testing.assert_close(layer.conv.weight.grad, plain.conv.weight.grad)


def test_a_half_precision_unit_is_copied_into_float32():
    layer = InhibitoryLayer(unit(dtype=torch.float16), num_channels=5)
    assert {tensor.dtype for tensor in layer.state_dict().values() if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_decay_gets_no_gradient_and_changes_no_answer(form):
    layer = InhibitoryLayer(unit(), num_channels=5, decay_init=0.7, form=form, learn_decay=False)
    learned = InhibitoryLayer(unit(), num_channels=5, decay_init=0.7, form=form)
    features, excitation = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert torch.equal(layer(features, excitation), learned(features, excitation))
    for one in (layer, learned):
        one(features, excitation).square().sum().backward()
    assert layer.raw_decay.grad is None
    assert not layer.raw_decay.requires_grad
    assert learned.raw_decay.grad.all()
    assert torch.equal(layer.conv.weight.grad, learned.conv.weight.grad)


def drawn(seed, **changes):
    conv_unit = unit(nn.PReLU, bias=True, **changes)
    return InhibitoryLayer(conv_unit, num_channels=5, generator=torch.Generator().manual_seed(seed)), conv_unit


def test_a_random_start_is_that_of_a_fresh_unit():
    layer, conv_unit = drawn(4)
    bound = 1 / math.sqrt(3 * 3 * 3)  # what nn.Conv2d starts with: uniform, by the inputs of one output
    assert layer.conv.weight.abs().max() <= bound
    assert layer.conv.bias.abs().max() <= bound
    assert layer.conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert not torch.isclose(layer.conv.weight, conv_unit.conv.weight).any()
    fresh = nn.BatchNorm2d(5).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in layer.norm.state_dict().items())
    assert layer.act.weight.item() == 0.25  # as nn.PReLU starts
    assert layer.decay.tolist() == pytest.approx([DECAY_START] * 5)
    assert all(parameter.requires_grad for parameter in layer.parameters())
    untouched = unit(nn.PReLU, bias=True).state_dict()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in conv_unit.state_dict().items())


def test_a_random_start_depends_on_its_generator_alone():
    torch.rand(3)
    state = torch.get_rng_state()
    one, again, other = drawn(4)[0], drawn(4)[0], drawn(5)[0]
    assert torch.equal(one.conv.weight, again.conv.weight)
    assert not torch.isclose(one.conv.weight, other.conv.weight).any()
    fresh = unit(nn.PReLU, bias=True)  # the tests' own unit draws when it is made
    assert fresh is not None
    torch.set_rng_state(state)
    InhibitoryLayer(fresh, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_random_start_leaves_what_has_no_fresh_values():
    from timm.layers.std_conv import ScaledStdConv2d
    from torchvision.ops import FrozenBatchNorm2d

    conv_unit = nn.Sequential()
    conv_unit.add_module("conv", ScaledStdConv2d(3, 5, 3))
    conv_unit.add_module("norm", FrozenBatchNorm2d(5))
    conv_unit.norm.running_mean.fill_(0.5)
    before = {name: tensor.clone() for name, tensor in conv_unit.state_dict().items()}
    layer = InhibitoryLayer(conv_unit, num_channels=5, generator=torch.Generator().manual_seed(1))
    changed = {
        name for name, tensor in layer.state_dict().items() if name in before and not torch.equal(tensor, before[name])
    }
    assert changed == {"conv.weight", "conv.bias"}  # neither its gains nor the statistics


def test_a_deep_copy_gives_the_same_mask_and_is_independent():
    backbone = tiny_backbone()
    conv_unit = nn.Sequential()
    for name, index in (("conv", 3), ("norm", 4), ("act", 5)):
        conv_unit.add_module(name, backbone[index])
    layer = InhibitoryLayer(conv_unit, num_channels=12).eval()
    features = torch.rand(2, 8, 8, 8)
    other = copy.deepcopy(layer)
    expected = layer(features, conv_unit(features))
    layer.raw_decay.data.add_(1)
    assert torch.equal(other(features, conv_unit(features)), expected)
    assert not torch.equal(layer(features, conv_unit(features)), expected)


def low_rank(layer, seed=5):
    """The layer, or the convolution of low rank, with a change that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in layer.named_parameters():
        if name.endswith("up.weight"):
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / 4
    return layer


GEOMETRIES = [
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2, "padding": "same"},
    {"groups": 2, "padding_mode": "circular"},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_of_low_rank_answers_in_the_shape_of_the_other_and_starts_at_zero(geometry):
    conv = nn.Conv2d(4, 6, (3, 5), **geometry)
    features = torch.randn(2, 4, 9, 11)
    answer = LowRankConvolution(conv, rank=3)(features)
    assert answer.shape == conv(features).shape
    assert not answer.any()


def test_a_convolution_of_low_rank_is_a_convolution_whose_weight_has_that_rank():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    change = low_rank(LowRankConvolution(conv, rank=2))
    weight = torch.einsum("or,rikl->oikl", change.up.weight[:, :, 0, 0], change.down.weight)
    assert torch.linalg.matrix_rank(weight.flatten(1)) == 2
    features = torch.randn(2, 4, 9, 9)
    expected = torch.nn.functional.conv2d(features, weight, padding=1)
    torch.testing.assert_close(change(features), expected)


def test_its_random_values_come_from_the_seed_alone():
    conv = nn.Conv2d(4, 6, 3)
    before = torch.get_rng_state()
    first, again, other = (LowRankConvolution(conv, 2, seed).down.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("form", get_args(InhibitionForm))
def test_inhibition_of_low_rank_starts_where_the_copy_of_a_unit_with_relu_starts(form):
    conv_unit = unit(nn.ReLU)
    features = torch.randn(4, 3, 6, 6)
    masks = [InhibitoryLayer(conv_unit, 5, 0.7, form=form, rank=r)(features, conv_unit(features)) for r in (None, 2)]
    torch.testing.assert_close(*masks)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, None])
def test_the_gain_form_is_u_at_the_start(activation, rank):
    conv_unit = unit(activation)
    features = torch.randn(4, 3, 6, 6)
    layer = InhibitoryLayer(conv_unit, 5, 0.7, form="gain", rank=rank)
    torch.testing.assert_close(layer(features, conv_unit(features)), conv_unit(features))
    torch.testing.assert_close(layer.gate(features, conv_unit(features)), torch.ones(4, 5, 6, 6))


@pytest.mark.parametrize(("start", "times"), [(0.03, 1.0), (0.7, 1.0), (1.0, 1.0), (3.0, 3.0), (10.0, 10.0)])
def test_the_rescaled_form_is_equation_1_times_the_start_of_a_wherever_a_goes(start, times):
    conv_unit, features = unit(), torch.randn(4, 3, 6, 6)
    u = conv_unit(features)
    paper, rescaled = (InhibitoryLayer(conv_unit, 5, start, form=form) for form in ("divisive", "rescaled"))
    for decay in (0.7, 0.2, 5.0):
        masks = [on_decay(layer, decay)(features, u) for layer in (paper, rescaled)]
        torch.testing.assert_close(masks[1], times * masks[0])
    rescaled.set_decay(2.0)  # as the trainer does before the first update
    torch.testing.assert_close(rescaled(features, u), 2.0 * u / (2.0 + rescaled.inhibition(features)))


WHOLE = {
    "divisive": lambda u, e, i, a: (u + e) / (a + i),
    "rescaled": lambda u, e, i, a: (u + e) / (a + i),  # as `a` started at 0.3
    "gain": lambda u, e, i, a: (u + e) * (0.3 + u.clamp(min=0)) / (a + i),
    "additive": lambda u, e, i, a: (u + e + i) / a,
    "subtractive": lambda u, e, i, a: (u + e - i) / a,
}


@pytest.mark.parametrize("form", WHOLE)
def test_the_whole_shunting_equation_against_its_definition_in_float64(form):
    conv_unit = unit(None, dtype=torch.float64)
    layer = low_rank(InhibitoryLayer(conv_unit, 5, 0.3, form=form, rank=2).double())
    on_decay(layer, 0.9)
    features, added = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    u = conv_unit(features)
    inhibition = (u + layer.low_rank.up(layer.low_rank.down(features))).clamp(min=0)
    expected = WHOLE[form](u, added, inhibition, 0.9)
    torch.testing.assert_close(layer(features, u, added), expected, rtol=1e-6, atol=1e-7)


def test_every_number_of_the_low_rank_forms_learns():
    conv_unit = unit()
    layer = InhibitoryLayer(conv_unit, 5, 0.3, form="gain", rank=2)
    features = torch.randn(8, 3, 6, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):  # what leads to the zeros of the start learns from the second step on
        optimizer.zero_grad()
        layer(features, conv_unit(features)).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_forms_that_look_at_u_say_so_when_they_do_not_get_it():
    features = torch.randn(2, 3, 4, 4)
    with pytest.raises(InputError, match="give `excitation`"):
        InhibitoryLayer(unit(), 5, rank=2).inhibition(features)
    with pytest.raises(InputError, match="give `excitation`"):
        InhibitoryLayer(unit(), 5, form="gain").gate(features)
