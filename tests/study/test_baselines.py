"""Baselines: where they start, how many numbers they train, and what of the encoder stays as it is."""

from __future__ import annotations

import ast
import copy
import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from ciao_peft import CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.adapters.adapter import Adapter
from ciao_peft.backbone import open_backbone
from ciao_peft.errors import ConfigError, InputError, UntraceableBackboneError
from ciao_peft.study.baselines import BUILDERS, build_baseline
from ciao_peft.study.baselines.fit import fit
from ciao_peft.study.presets import BASELINES
from helpers.fakes import BACKBONES, SIZE, Undecided, bits, pixels, same_bits, small_config, tiny_backbone
from helpers.training import BALANCED

# By hand, for the chain: 12 x 8 x 3 x 3 is its last convolution, 8 x 3 x 3 x 3 its first, each with a batch norm; the
# first has a bias. The final map is 12 x 4 x 4, so that the head sees 12 x 2 x 2 = 48 numbers.
HEAD = 48 * 16 + 16 + 16 * 3 + 3
ADDED = {
    ("lora", "rank=4"): 4 * 8 * 9 + 12 * 4,
    ("lora", "rank=2 everywhere=True"): (2 * 8 * 9 + 12 * 2) + (2 * 3 * 9 + 8 * 2),
    ("scale_and_shift", ""): 2 * 12 + 2 * 12,
    ("scale_and_shift", "everywhere=True"): 4 * 12 + 4 * 8,
    ("norm_and_bias", ""): 2 * 12 + 2 * 8 + 8,
    ("residual_adapters", ""): 12 * 8 + 2 * 12,
    ("residual_adapters", "everywhere=True"): 12 * 8 + 2 * 12 + 8 * 3 + 2 * 8,
}
CHANGED = pytest.mark.parametrize(("name", "settings"), ADDED, ids=lambda value: value or "alone")
FROM_FEATURES = pytest.mark.parametrize(
    ("name", "settings"), [case for case in ADDED if "everywhere" not in case[1] and case[0] != "norm_and_bias"]
)


def settings_of(words):
    return {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in words.split())}


def faces(count=18, seed=0):
    kinds = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))
    return [{"pixel_values": kinds[n % 3] + noise[n], "labels": torch.tensor(n % 3)} for n in range(count)]


def arguments(**changes):
    values = BALANCED | {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 6,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return CIAOTrainingArguments(**(values | changes))


def disturb(baseline):
    """Other values for everything that a baseline trains in the encoder."""
    generator = torch.Generator().manual_seed(5)
    for parameter in baseline.parts()["encoder"]:
        parameter.data.add_(torch.rand(parameter.shape, generator=generator) / 4 + 0.1)
    return baseline


@functools.cache
def residual_timm():
    """A small residual network of timm; the last gains of its blocks, zero when it is made, are set."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", pretrained=False, num_classes=5).eval()
    for name, module in net.named_modules():
        if name.endswith(("bn1", "bn2")):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    net.input_size = (3, 64, 64)
    return net


# -- where they start -------------------------------------------------------------------------------------------------


@BACKBONES
@CHANGED
def test_training_starts_at_the_frozen_encoders_answer(make, name, settings):
    encoder, config = make(), small_config(pooling="flatten")
    baseline = build_baseline(name, encoder, config, **settings_of(settings))
    plain = get_ciao_model(encoder, replace(config, inhibition=False)).eval()
    assert torch.equal(baseline(pixels()), plain(pixels()).logits)
    assert not torch.equal(disturb(baseline)(pixels()), plain(pixels()).logits)


@CHANGED
def test_a_network_of_timm_is_adapted_where_its_last_convolution_counts(name, settings):
    encoder, config = residual_timm(), small_config(pooling="avg")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    baseline = build_baseline(name, encoder, config, **settings_of(settings))
    before = baseline.feature_map(x)
    assert torch.equal(before, encoder.forward_features(x))
    assert not torch.allclose(disturb(baseline).feature_map(x), before, atol=1e-3)


# -- numbers ----------------------------------------------------------------------------------------------------------


@CHANGED
def test_trained_numbers_are_those_of_arithmetic_by_hand(name, settings):
    baseline = build_baseline(name, tiny_backbone(), small_config(), **settings_of(settings))
    counts = {part: sum(p.numel() for p in own) for part, own in baseline.parts().items()}
    assert counts == {"encoder": ADDED[name, settings], "head": HEAD}
    assert baseline.num_trained == baseline.num_stored == ADDED[name, settings] + HEAD


def test_the_wide_head_has_as_many_numbers_as_ciao_trains():
    baseline = build_baseline("wide_head", tiny_backbone(), small_config())
    ciao = 12 * 8 * 9 + 2 * 12 + 12 + HEAD  # convolution, gain and bias, a
    assert ciao == 1735
    width = 33  # (1735 - 3) / (48 + 1 + 3) = 33.3
    assert baseline.head(torch.zeros(1, 48))[1].shape == (1, width)
    assert baseline.num_trained == 48 * width + width + width * 3 + 3
    assert abs(baseline.num_trained - ciao) <= (48 + 1 + 3) / 2
    model = get_ciao_model(tiny_backbone(), small_config())
    assert sum(p.numel() for group in model.adapter_parameters("default").values() for p in group) == ciao


def test_head2toe_stores_which_numbers_it_looks_at():
    baseline = build_baseline("head2toe", tiny_backbone(), small_config(), size=48, fraction=0.25)
    # Of 8 x 8 x 8, 12 x 8 x 8 and 12 x 4 x 4, averaged over 2 x 2 cells each; a quarter of them stays.
    assert baseline.layers.sizes == [32, 48, 48]
    assert baseline.num_trained == 32 * 3 + 3
    assert baseline.num_stored == 32 * 3 + 3 + 32


def test_every_method_is_of_a_builder_that_takes_its_settings_and_searches_as_much_as_the_others():
    assert {method.baseline for method in BASELINES if method.baseline is not None} == set(BUILDERS)
    for method in BASELINES:
        assert len(method.rates) == 4, method.name
        if method.baseline is None:
            continue
        baseline = build_baseline(method.baseline, tiny_backbone(), small_config(**method.config), **method.settings)
        assert (method.rate == "encoder_learning_rate") == bool(baseline.parts()["encoder"]), method.name


# -- what changes -----------------------------------------------------------------------------------------------------


@BACKBONES
@pytest.mark.parametrize(("name", "settings"), [*ADDED, ("wide_head", ""), ("head2toe", "size=48")])
def test_what_is_trained_changes_and_nothing_else(make, name, settings):
    encoder = make()
    encoder.train()
    first = next(encoder.parameters())
    first.requires_grad_(False)
    before, modes = bits(encoder), [module.training for module in encoder.modules()]
    modules = [type(module) for module in encoder.modules()]
    baseline = build_baseline(name, encoder, small_config(), **settings_of(settings))
    start, trained = bits(baseline), {id(p) for own in baseline.parts().values() for p in own}
    fit(baseline, faces(), arguments(learning_rate=0.01, encoder_learning_rate=0.01))
    assert same_bits(bits(encoder), before)
    assert [module.training for module in encoder.modules()] == modes
    assert [type(module) for module in encoder.modules()] == modules
    assert [p.requires_grad for p in encoder.parameters()] == [p is not first for p in encoder.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in encoder.modules())
    assert not baseline.training
    if name == "head2toe":  # whose second head is another module
        assert all(torch.equal(start[key], now) for key, now in bits(baseline).items() if key.startswith("layers."))
        return
    for key, tensor in baseline.state_dict(keep_vars=True).items():
        assert torch.equal(start[key], tensor) == (id(tensor) not in trained), key


def test_statistics_of_batch_norm_stay_whatever_train_says():
    baseline = build_baseline("norm_and_bias", tiny_backbone(), small_config()).train()
    before = bits(baseline)
    baseline(pixels())
    assert baseline.training
    assert baseline.head.training
    assert not any(module.training for module in baseline.rooted.modules())
    assert same_bits(bits(baseline), before)


def test_gradients_reach_every_number_that_is_trained():
    for name, settings in ADDED:
        baseline = disturb(
            build_baseline(name, tiny_backbone(), small_config(dropout=0.0), **settings_of(settings))
        ).train()
        baseline(pixels(8)).square().sum().backward()
        for part, own in baseline.parts().items():
            assert all(p.grad is not None and p.grad.any() for p in own), (name, part)


# -- features and pixels ----------------------------------------------------------------------------------------------


@BACKBONES
@FROM_FEATURES
def test_features_and_pixels_give_the_same_answer(make, name, settings):
    encoder = make()
    baseline = disturb(build_baseline(name, encoder, small_config(), **settings_of(settings)))
    features = get_ciao_model(encoder, small_config()).eval().extract_features(pixels(), include_excitation=True)
    torch.testing.assert_close(baseline(features=features), baseline(pixels()), rtol=1e-5, atol=1e-6)


@FROM_FEATURES
def test_an_adapted_unit_computes_its_own_u(name, settings):
    baseline = disturb(build_baseline(name, tiny_backbone(), small_config(), **settings_of(settings)))
    model = get_ciao_model(tiny_backbone(), small_config()).eval()
    features = model.extract_features(pixels(), include_excitation=True)
    other = [*features[:-1], torch.rand_like(features[-1])]
    assert not baseline.uses_excitation
    assert torch.equal(baseline(features=other), baseline(features=features))
    assert torch.equal(baseline(features=features[:-1]), baseline(features=features))


def test_a_frozen_unit_takes_u_as_it_is_stored():
    baseline = build_baseline("wide_head", tiny_backbone(), small_config())
    model = get_ciao_model(tiny_backbone(), small_config()).eval()
    features = model.extract_features(pixels(), include_excitation=True)
    assert baseline.uses_excitation
    assert torch.equal(baseline(features=features), baseline(features=features[:-1]))
    assert not torch.equal(baseline(features=[*features[:-1], features[-1] + 1]), baseline(features=features))


@FROM_FEATURES
def test_training_from_features_and_from_pixels_gives_the_same_baseline(name, settings):
    encoder, found = tiny_backbone(), []
    for data in (faces(), cache_features(encoder, faces())):
        baseline = build_baseline(name, encoder, small_config(), **settings_of(settings))
        fit(baseline, data, arguments(learning_rate=0.01))
        found.append(baseline(pixels()))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_a_half_precision_encoder_is_adapted_in_full_precision():
    baseline = build_baseline("lora", tiny_backbone().bfloat16(), small_config(), rank=4)
    assert {p.dtype for p in baseline.parameters()} == {torch.float32}
    assert baseline(pixels().bfloat16()).dtype == torch.float32


def test_a_deep_copy_answers_alike_and_is_independent():
    baseline = disturb(build_baseline("residual_adapters", tiny_backbone(), small_config()))
    other = copy.deepcopy(baseline)
    expected = baseline(pixels())
    disturb(baseline)
    assert torch.equal(other(pixels()), expected)
    assert not torch.equal(baseline(pixels()), expected)


# -- what cannot be built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adapters", {}, r"There is no baseline 'adapters'\. Baselines: 'head2toe', 'lora', "),
        ("lora", {"ranks": 4}, "The baseline 'lora': .*unexpected keyword argument 'ranks'"),
        ("lora", {"rank": 0}, "`rank` must be a whole number of 1 or more; got 0"),
        ("lora", {"rank": True}, "`rank` must be a whole number of 1 or more; got True"),
        ("head2toe", {"size": 0}, "`size` must be a whole number of 1 or more; got 0"),
        ("head2toe", {"fraction": 0}, "`fraction` must lie above 0 and at most at 1; got 0"),
        ("head2toe", {"fraction": float("nan")}, "`fraction` must lie"),
        ("head2toe", {"group_lasso": -1}, "`group_lasso` must be at least 0; got -1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(name, settings, message):
    encoder = tiny_backbone().train()
    before = bits(encoder)
    with pytest.raises(ConfigError, match=message):
        build_baseline(name, encoder, small_config(), **settings)
    assert encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert same_bits(bits(encoder), before)


@pytest.mark.parametrize("name", BUILDERS)
def test_an_encoder_without_a_cut_is_refused(name):
    with pytest.raises(UntraceableBackboneError, match=r"Undecided could not be cut in two .*'last convolution'"):
        build_baseline(name, Undecided(), small_config())


def chain_of(*layers):
    net = nn.Sequential(*layers)
    net.input_size = SIZE
    return net.eval()


def test_depths_beside_the_map_of_a_baseline_are_refused():
    with pytest.raises(ConfigError, match="The baseline 'residual_adapters' has no `depths` beside its map"):
        build_baseline("residual_adapters", tiny_backbone(), small_config(depths=1))


def test_where_there_is_nothing_to_adapt_it_is_said():
    bare = chain_of(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU())
    with pytest.raises(ConfigError, match="Sequential has neither normalisations nor biases"):
        build_baseline("norm_and_bias", bare, small_config())
    with pytest.raises(ConfigError, match="Sequential has no convolution larger than 1x1"):
        build_baseline("residual_adapters", chain_of(nn.Conv2d(3, 8, 1), nn.ReLU()), small_config(), everywhere=True)
    grouped = chain_of(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
    with pytest.raises(ConfigError, match=r"Sequential has no plain convolution .*: '2'"):
        build_baseline("lora", grouped, small_config())
    everywhere = build_baseline("lora", grouped, small_config(), rank=2, everywhere=True)
    assert sum(p.numel() for p in everywhere.parts()["encoder"]) == 2 * 3 * 9 + 8 * 2


@pytest.mark.parametrize("kind", ["more", "narrow", "nan"])
def test_features_of_another_cut_are_refused(kind):
    baseline = build_baseline("lora", tiny_backbone(), small_config())
    (feature,) = get_ciao_model(tiny_backbone(), small_config()).eval().extract_features(pixels())
    given = {"more": [feature, feature], "narrow": [feature[:, :4]], "nan": [feature * float("nan")]}[kind]
    with pytest.raises(InputError, match="`features`"):
        baseline(features=given)


def test_the_masks_are_where_the_config_says():
    config = small_config(target_modules=("0",))
    baseline = build_baseline("scale_and_shift", tiny_backbone(), config)
    assert sum(p.numel() for p in baseline.parts()["encoder"]) == 4 * 8
    assert baseline.cut.targets == ("0",)
    adapter = Adapter(config, open_backbone(tiny_backbone(), SIZE, ("0",)))
    assert baseline.head(torch.zeros(1, 48))[0].shape == adapter.head(torch.zeros(1, 48))[0].shape
