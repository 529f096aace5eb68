"""The backbone is borrowed, never changed (promises 1 to 6)."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest
import torch

from ciao_peft.model import CIAOModel, get_ciao_model
from helpers.fakes import (
    BACKBONES,
    NETWORKS,
    Undecided,
    bits,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    wrap,
)


def hooks(module):
    return sum(
        len(getattr(m, kind))
        for m in module.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    )


@BACKBONES
@NETWORKS
def test_disabled_it_is_the_backbone_bit_for_bit_also_after_training(make, network):  # promise 1
    expected = make()(pixels())
    model = wrap(make(), **network).eval()
    train(model)
    with model.disable_adapter():
        assert torch.equal(model(pixels()), expected)


def test_what_was_before_comes_back_after_disabling_nested_and_after_an_exception():  # promise 1
    model = wrap().eval()
    backbone, adapted = tiny_backbone()(pixels()), model(pixels()).logits
    with model.disable_adapter():
        with model.disable_adapter():
            assert torch.equal(model(pixels()), backbone)
        assert torch.equal(model(pixels()), backbone)
    assert torch.equal(model(pixels()).logits, adapted)
    with pytest.raises(ZeroDivisionError), model.disable_adapter():
        raise ZeroDivisionError
    assert torch.equal(model(pixels()).logits, adapted)
    assert model.active_adapter == "default"


def test_disabled_in_one_thread_it_still_reads_in_another():  # promises 1 and 14
    model = wrap().eval()
    expected = model(pixels()).logits
    found = []
    with model.disable_adapter():
        reader = threading.Thread(target=lambda: found.append(model(pixels()).logits))
        reader.start()
        reader.join()
    assert torch.equal(found[0], expected)


@BACKBONES
@NETWORKS
def test_wrapping_and_training_change_no_key_and_no_bit_of_the_backbone(make, network):  # promises 2 and 3
    backbone = make()
    before = bits(backbone)
    model = wrap(backbone, **network, train_batch_norm=True)
    assert model.backbone is backbone
    model.train()
    train(model)
    model.eval()
    assert same_bits(bits(backbone), before)
    assert all(parameter.grad is None for parameter in backbone.parameters())
    backbone.load_state_dict(make(seed=5).state_dict())  # a plain checkpoint still loads
    assert same_bits(bits(backbone), bits(make(seed=5)))


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
def test_the_backbone_stays_as_it_is_even_when_somebody_puts_it_into_training_mode(make):  # promise 3
    backbone = make()
    model = wrap(backbone).eval()
    before, expected = bits(backbone), model(pixels()).logits
    uses = [
        lambda: model(pixels()),
        lambda: model.read(pixels()),
        lambda: model(pixels(2), adapter_names=["default", "__base__"]),
        lambda: train(model, steps=1),
    ]
    if model.traceable:
        features = model.extract_features(pixels())
        uses += [lambda: model.extract_features(pixels()), lambda: model.read(features=features)]
    for use in uses:
        backbone.train()
        use()
        assert same_bits(bits(backbone), before)
        assert not any(m.training for m in backbone.modules())
    with model.disable_adapter():
        backbone.train()
        assert torch.equal(model(pixels()), make()(pixels()))
    assert not torch.equal(model(pixels()).logits, expected)  # trained


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
def test_unloading_leaves_no_trace(make):  # promise 4
    backbone = make()
    backbone.train()
    [*backbone.modules()][3].eval()
    next(backbone.parameters()).requires_grad_(False)
    before = bits(backbone)
    modes = {name: m.training for name, m in backbone.named_modules()}
    gradients = {name: p.requires_grad for name, p in backbone.named_parameters()}
    attributes = {name: sorted(vars(m)) for name, m in backbone.named_modules()}
    model = wrap(backbone)
    train(model)
    assert model.unload() is backbone
    assert hooks(backbone) == 0
    assert same_bits(bits(backbone), before)
    assert {name: m.training for name, m in backbone.named_modules()} == modes
    assert {name: p.requires_grad for name, p in backbone.named_parameters()} == gradients
    assert {name: sorted(vars(m)) for name, m in backbone.named_modules()} == attributes


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_training_mode_is_what_the_user_set(training, tmp_path):  # promise 5
    model = wrap(tiny_backbone().train(training))
    assert model.training is training
    model.save_pretrained(tmp_path / "saved")
    model.add_adapter("other", small_config())
    model.load_adapter(tmp_path / "saved", "loaded")
    model.set_adapter("loaded")
    assert model.training is training
    assert not any(m.training for m in model.backbone.modules())
    assert all(adapter.head.training is training for adapter in model.adapters.values())
    loaded = CIAOModel.from_pretrained(tiny_backbone().train(training), tmp_path / "saved")
    assert loaded.training is training


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone, Undecided])
@NETWORKS
def test_the_global_random_state_stays_where_it_is(make, network, tmp_path):  # promise 6
    backbone = make()
    state = torch.get_rng_state()
    model = wrap(backbone, **network)
    model.add_adapter("other", small_config())
    model.save_pretrained(tmp_path / "saved")
    model.load_adapter(tmp_path / "saved", "loaded")
    CIAOModel.from_pretrained(backbone, tmp_path / "saved")
    model.eval()(pixels())
    assert torch.equal(torch.get_rng_state(), state)


class _Watched(torch.nn.Conv2d):
    """A convolution that notes every mode it is put into, however it is done and be it for a moment."""

    modes: ClassVar[set[bool]] = set()

    def __setattr__(self, name, value):
        if name == "training":
            self.modes.add(value)
        super().__setattr__(name, value)


@NETWORKS
def test_neither_backbone_nor_copies_of_it_are_in_training_mode_for_a_moment(network):  # promises 3 and 14
    backbone = tiny_backbone()
    for index in (0, 3):
        backbone[index].__class__ = _Watched
    model = wrap(backbone, **network)
    assert any(isinstance(module, _Watched) for module in model.adapters["default"].modules()) is (
        network["inhibition"] or network["tuning"] != "decision_layer"
    )
    model.add_adapter("other", small_config(**network))
    _Watched.modes.clear()
    model.train().eval().train()
    train(model, "other")
    assert _Watched.modes == {False}
    assert model.adapters["other"].head.training and model.training


def test_a_part_of_the_backbone_put_into_training_mode_moves_no_statistics():  # promise 3
    backbone = tiny_backbone()
    model = get_ciao_model(backbone, small_config()).eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone[1].train()
    model(pixels())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
