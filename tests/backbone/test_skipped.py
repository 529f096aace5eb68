"""What a cut backbone would pass over in silence: hooks that never fire, and networks that only begin with patches."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model
from ciao_peft.errors import TargetModulesError
from helpers.fakes import SIZE, tiny_backbone

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=2, hidden_sizes=())


class Patches(nn.Module):
    """A vision transformer of one block, with or without a class token."""

    def __init__(self, doubtful=False):
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)
        self.doubtful = doubtful

    def forward(self, x):
        if self.doubtful and x.sum() > 1e9:  # decided by content: it cannot be cut
            return x
        x = self.proj(x).flatten(2).transpose(1, 2)
        return self.fc((x + self.mix(self.norm(x))).mean(1))


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


@pytest.mark.parametrize("doubtful", [False, True], ids=["cut", "hooked"])
def test_a_network_that_only_begins_with_a_convolution_is_refused_unless_one_insists(doubtful):
    net = Patches(doubtful)
    with pytest.raises(TargetModulesError, match=r"'proj', is also its first.*`target_modules=\('proj',\)`"):
        get_ciao_model(net, CONFIG, input_size=SIZE)
    assert net.proj.weight.requires_grad
    assert net.training
    insisting = CIAOConfig(**{**CONFIG.to_dict(), "target_modules": ("proj",)})
    model = get_ciao_model(net, insisting, input_size=SIZE)
    assert model.traceable is not doubtful
    assert model(torch.rand(2, *SIZE)).logits.shape == (2, 2)


def test_a_vision_transformer_of_torchvision_is_refused():
    torchvision = pytest.importorskip("torchvision")
    net = torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=3)
    with pytest.raises(TargetModulesError, match="'conv_proj', is also its first"):
        get_ciao_model(net, CONFIG, input_size=(3, 32, 32))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.BatchNorm2d(8), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
    ],
    ids=["alone", "normalised", "classifier"],
)
def test_a_network_of_one_convolution_and_a_classifier_is_no_transformer(net):
    assert get_ciao_model(net, CONFIG, input_size=SIZE).traceable


def test_a_hook_on_a_container_fires_and_changes_no_answer():
    net, fired = Stages(), {}
    model = get_ciao_model(net, CONFIG, input_size=SIZE).eval()
    model.add_adapter("other", CONFIG)
    pixels = torch.rand(4, *SIZE)

    def answers():
        with model.disable_adapter():
            base = model(pixels)
        mixed = model(pixels[:3], adapter_names=["default", "other", "default"])
        both = model.read(pixels, adapter_names=["default", "other"]).values()
        return [model(pixels).logits, base, mixed.logits, *both]

    before = answers()
    for name in ("layer1", "layer2"):
        net.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: fired.__setitem__(name, out))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = answers()
        output = model(pixels)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
    assert fired["layer1"].shape == (4, 8, 14, 14)
    grad = torch.autograd.grad(output.logits.sum(), fired["layer2"])[0]  # what it saw is the masked map
    assert grad.shape == (4, 8, 12, 12) and grad.abs().sum() > 0


def test_what_a_hook_returns_is_taken():
    net = Stages()
    model = get_ciao_model(net, CONFIG, input_size=SIZE).eval()
    pixels = torch.rand(2, *SIZE)
    whole = model(pixels).logits
    handle = net.layer1.register_forward_hook(lambda module, given, out: out * 0)
    assert not torch.allclose(model(pixels).logits, whole)
    handle.remove()
    assert torch.equal(model(pixels).logits, whole)


def test_hooks_that_cannot_fire_are_said_once():
    net, fired = Stages(), []
    model = get_ciao_model(net, CONFIG, input_size=SIZE)
    net.layer1[0].register_forward_hook(lambda *_: fired.append("conv"))
    pixels = torch.rand(1, *SIZE)
    model(pixels)  # no word about a hook that fires
    assert fired == ["conv"]
    net.register_forward_pre_hook(lambda *_: fired.append("net"))
    net.register_forward_hook(lambda *_: fired.append("net"))
    with pytest.warns(UserWarning, match=r"sits on the backbone itself \(Stages\), and will not"):
        model(pixels)
    model(pixels)  # said once
    with model.disable_adapter():
        model(pixels)
    assert fired[-1] == "net"


def test_stored_features_pass_over_a_hook_and_say_so():
    net = Stages()
    model = get_ciao_model(net, CONFIG, input_size=SIZE).eval()
    features = model.extract_features(torch.rand(2, *SIZE))
    net.layer1.register_forward_hook(print)
    with pytest.warns(UserWarning, match=r"sits on 'layer1' \(Sequential\), and will not fire"):
        model(features=features)


def test_a_hook_behind_the_map_is_said_to_fire_without_an_adapter_only():
    net, fired = Stages(), []
    model = get_ciao_model(net, CONFIG, input_size=SIZE)
    net.fc.register_forward_hook(lambda *_: fired.append("fc"))
    pixels = torch.rand(1, *SIZE)
    with model.disable_adapter():
        model(pixels)
    assert fired == ["fc"]
    with pytest.warns(UserWarning, match=r"'fc' \(Linear\).*behind the final map"):
        model(pixels)


def test_copies_fire_and_say_it_again_and_networks_without_hooks_say_nothing():
    model = get_ciao_model(Stages(), CONFIG, input_size=SIZE)
    pixels = torch.rand(1, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(pixels)
        CIAOModel(tiny_backbone(), input_size=SIZE)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        fired = []
        other.backbone.layer2.register_forward_hook(lambda *_, fired=fired: fired.append("layer2"))
        other.backbone.register_forward_hook(print)
        with pytest.warns(UserWarning, match="the backbone itself"):
            other(pixels)
        assert fired == ["layer2"]
