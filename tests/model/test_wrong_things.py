"""What people give in place of a backbone, a config or a size: each is refused with what to write instead."""

from __future__ import annotations

import gc
import types

import pytest
import torch
from torch import nn

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, get_ciao_model
from ciao_peft.errors import BackboneError, CIAOError, ConfigError, TrainingError
from ciao_peft.model.active_config import ActiveConfig
from helpers.fakes import SIZE, tiny_backbone

CONFIG = CIAOConfig(problem_type="single_label_classification", num_labels=2, hidden_sizes=())


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet18", r"timm.create_model\('resnet18', pretrained=True\)"),
        (nn.Conv2d, r"the class Conv2d. Make one first: `Conv2d\(\.\.\.\)`"),
        (CONFIG, r"`get_ciao_model\(backbone, config\)`"),
        (None, "got NoneType"),
        (nn.DataParallel(nn.Conv2d(3, 8, 3)), "wrapped in DataParallel; give the network inside, `backbone.module`"),
    ],
    ids=["name", "class", "swapped", "none", "parallel"],
)
def test_what_is_no_backbone_is_refused_with_what_to_write(backbone, message):
    with pytest.raises(BackboneError, match=message):
        get_ciao_model(backbone, CONFIG)
    with pytest.raises(BackboneError, match=message):
        CIAOModel(backbone)


def test_quantized_layers_are_named():
    class Linear(nn.Linear):
        pass

    Linear.__module__ = "torch.ao.nn.quantized.dynamic.modules.linear"
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(8, 4))
    with pytest.raises(BackboneError, match=r"quantized layers \('4'\).*as it was before"):
        get_ciao_model(net, CONFIG, input_size=SIZE)
    assert net[0].weight.requires_grad


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"problem_type": "regression", "num_labels": 2}, r"got a dict. Write `CIAOConfig\(\*\*config\)`"),
        (types.SimpleNamespace(peft_type="LORA"), r"Adapters of other kinds, such as those of peft"),
        (ActiveConfig.of(CONFIG), r"An adapter's own is `model.peft_config\[NAME\]`"),
        (7, r"got int. Write `CIAOConfig\(problem_type="),
    ],
)
def test_what_is_no_config_is_refused_with_what_to_write(config, message):
    net = tiny_backbone()
    with pytest.raises(ConfigError, match=message):
        get_ciao_model(net, config, input_size=SIZE)
    model = get_ciao_model(net, CONFIG, input_size=SIZE)
    with pytest.raises(ConfigError, match=message):
        model.add_adapter("other", config)
    assert list(model.adapters) == ["default"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (224, r"got 224. Write `input_size=\(3, 224, 224\)`"),
        ((112, 96), r"Write `input_size=\(3, 112, 96\)`"),
        ((3, 16.5, 16), r"must be \(channels, height, width\)"),
        ("224", "must be"),
        ((3, 16, 0), "must be"),
    ],
)
def test_a_size_that_is_not_three_numbers_is_refused(size, message):
    with pytest.raises(ConfigError, match=message):
        get_ciao_model(tiny_backbone(), CONFIG, input_size=size)


def test_a_preprocessing_of_another_library_is_refused():
    with pytest.raises(ConfigError, match=r"must be a ciao_peft.Preprocessing; got function"):
        get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE, preprocessing=lambda picture: picture)


def test_a_compiled_backbone_is_the_network_inside(tmp_path):
    net = tiny_backbone()
    compiled = torch.compile(net)
    folder = get_ciao_model(net, CONFIG, input_size=SIZE).save_pretrained(tmp_path / "mine")
    model = CIAOModel.from_pretrained(compiled, folder)
    assert model.backbone is net
    pixels = torch.rand(2, *SIZE)
    other = CIAOModel.from_pretrained(tiny_backbone(), folder)
    assert torch.equal(model.eval()(pixels).logits, other.eval()(pixels).logits)
    assert model.unload() is compiled
    assert all("_orig_mod" not in name for name in model.backbone.state_dict())


def test_a_model_in_a_wrapper_is_refused_with_the_way_out():
    model = get_ciao_model(tiny_backbone(), CONFIG, input_size=SIZE)
    with pytest.raises(TrainingError, match=r"got DataParallel. Give the model inside, `model.module`"):
        CIAOTrainer(nn.DataParallel(model))
    with pytest.raises(BackboneError, match=r"nn.DataParallel. Start one process for each"):
        model._replicate_for_data_parallel()
    with pytest.raises(TrainingError, match="got Conv2d"):
        CIAOTrainer(nn.Conv2d(3, 8, 3))


@pytest.mark.parametrize("forgotten", [False, True], ids=["held", "forgotten"])
def test_a_backbone_wrapped_twice_comes_back_as_before_the_first_time(forgotten):
    net = tiny_backbone()
    before = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert all(before.values())
    model = get_ciao_model(net.train(), CONFIG, input_size=SIZE)
    if forgotten:
        del model
        gc.collect()
    second = get_ciao_model(net, CONFIG, input_size=SIZE)
    assert second.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert second.unload() is net
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == before
    assert net.training


def test_what_somebody_froze_between_two_models_stays_frozen():
    net = tiny_backbone()
    get_ciao_model(net, CONFIG, input_size=SIZE).unload()
    first = next(net.parameters()).requires_grad_(False)
    get_ciao_model(net, CONFIG, input_size=SIZE).unload()
    assert not first.requires_grad
    net.requires_grad_(False)
    get_ciao_model(net, CONFIG, input_size=SIZE).unload()
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_every_refusal_leaves_the_backbone_as_it_was():
    net = tiny_backbone().train()
    for arguments in ({"config": {}}, {"config": CONFIG, "input_size": 16}):
        with pytest.raises(CIAOError):
            get_ciao_model(net, **arguments)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
