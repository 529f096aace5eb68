"""Saved is loaded (promises 15 to 17 and 20)."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ciao_peft.backbone import backbone_signature, same_backbone
from ciao_peft.errors import AdapterFileError, BackboneMismatchError
from ciao_peft.model import CIAOModel
from ciao_peft.preprocessing import Preprocessing
from ciao_peft.saving.adapter_folder import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE, load_adapter
from helpers.fakes import (
    BACKBONES,
    NETWORKS,
    SIZE,
    Undecided,
    bits,
    forge,
    pixels,
    residual_backbone,
    same_bits,
    tiny_backbone,
    train,
    wrap,
)


def keys_of(folder):
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        return set(file.keys())


@BACKBONES
@NETWORKS
@pytest.mark.parametrize("train_batch_norm", [True, False], ids=["own-statistics", "backbone-statistics"])
def test_outputs_are_bit_equal_after_training_and_loading(make, network, train_batch_norm, tmp_path):  # promise 15
    model = wrap(make(), **network, train_batch_norm=train_batch_norm)
    fresh = bits(model.adapters["default"])
    train(model).eval()
    trained = bits(model.adapters["default"])
    moved = {name for name in trained if "running" in name or "num_batches" in name} if train_batch_norm else set()
    assert all(not torch.equal(trained[name], fresh[name]) for name in moved)
    model.save_pretrained(tmp_path / "saved")
    other = CIAOModel.from_pretrained(make(), tmp_path / "saved").eval()
    assert same_bits(bits(other.adapters["saved"]), trained)
    assert other.peft_config["saved"] == model.peft_config["default"]
    assert torch.equal(other(pixels()).logits, model(pixels()).logits)
    assert torch.equal(other(pixels()).embeddings, model(pixels()).embeddings)
    train(other, "saved", steps=1)  # and trains on
    assert not same_bits(bits(other.adapters["saved"]), trained)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
@pytest.mark.parametrize("make", [tiny_backbone, Undecided])
def test_every_problem_and_any_backbone_comes_back(make, problem, tmp_path):  # promise 15
    names = {0: "arousal", 1: "快"}
    model = wrap(make(), problem_type=problem, num_labels=2, id2label=names, hidden_sizes=(), decay_init=0.3)
    train(model).eval().save_pretrained(tmp_path / "saved", training={"dataset": "painted", "seed": 3})
    other = CIAOModel.from_pretrained(make(), tmp_path / "saved").eval()
    assert torch.equal(other(pixels()).logits, model(pixels()).logits)
    assert other.peft_config["saved"].id2label == names
    assert load_adapter(tmp_path / "saved").training == {"dataset": "painted", "seed": 3}


def test_saving_changes_nothing_and_twice_gives_the_same_bytes(tmp_path):
    model = train(wrap())
    before, state = bits(model), torch.get_rng_state()
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
    assert same_bits(bits(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


UNIT = {"conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
HEAD = {f"head.{layer}.{part}" for layer in (0, 1) for part in ("weight", "bias")}


@NETWORKS
def test_the_file_holds_exactly_the_expected_keys(network, tmp_path):  # promise 16
    model = train(wrap(**network))
    model.save_pretrained(tmp_path / "saved")
    expected = set(HEAD)
    if network["inhibition"]:
        expected |= {f"inhibition.0.{name}" for name in UNIT} | {"inhibition.0.raw_decay", "inhibition.0.start_decay"}
    if network["tuning"] == "last_conv":
        expected |= {f"excitation.0.{name}" for name in UNIT}
    if network["tuning"] == "full":
        expected |= {f"encoder.{name}" for name in tiny_backbone().state_dict()}
    assert keys_of(tmp_path / "saved") == expected
    assert not keys_of(tmp_path / "saved") & set(model.backbone.state_dict())
    record = json.loads((tmp_path / "saved" / CONFIG_FILE).read_text("utf-8"))
    assert record["peft_type"] == "CIAO"
    assert type(record["format_version"]) is int
    assert record["config"]["target_modules"] == ["3"]
    assert record["input_size"] == list(SIZE)


def test_masks_side_by_side_are_numbered(tmp_path):  # promise 16
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            chain = tiny_backbone()
            self.stem, self.left, self.right = chain[:3], chain[3], tiny_backbone(seed=4)[3]
            self.input_size = SIZE

        def forward(self, x):
            x = self.stem(x)
            return torch.cat([self.left(x).relu(), self.right(x)], dim=1).mean(dim=(2, 3))

    model = train(wrap(Branches().eval()))
    model.save_pretrained(tmp_path / "saved")
    masks = {f"inhibition.{place}.{name}" for place in (0, 1) for name in ("conv.weight", "raw_decay", "start_decay")}
    assert keys_of(tmp_path / "saved") == HEAD | masks
    other = CIAOModel.from_pretrained(Branches().eval(), tmp_path / "saved").eval()
    assert torch.equal(other(pixels()).logits, model.eval()(pixels()).logits)


@pytest.mark.parametrize("key", ["inhibition.1.raw_decay", "backbone.0.weight", "0.weight", "3.weight", "head.2.bias"])
@pytest.mark.parametrize("network", [{}, {"tuning": "full"}], ids=["decision_layer", "full"])
def test_a_file_with_one_more_key_is_refused_and_overwrites_nothing(key, network, tmp_path):  # promise 16
    wrap(**network).save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / WEIGHTS_FILE)
    forge(tmp_path / "saved", tensors={**tensors, key: torch.full((8, 3, 3, 3), 9.0)})
    model = wrap(**network)
    before = bits(model)
    with pytest.raises(AdapterFileError, match=f"saved' holds '{key}', which no adapter with this config has"):
        model.load_adapter(tmp_path / "saved")
    assert same_bits(bits(model), before)
    assert list(model.adapters) == ["default"]


# -- the backbone it belongs to ------------------------------------------------------------------------------------


def deeper():
    """The chain with one more layer before its last: the last convolution has the same shape and the same path."""
    chain = tiny_backbone()
    extra = nn.Sequential(chain[2], nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    backbone = nn.Sequential(*chain[:2], extra, *chain[3:]).eval()
    backbone.input_size = SIZE
    return backbone


def renamed(make, name, **kwargs):
    backbone = make(**kwargs)
    backbone.name = name
    return backbone


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: renamed(tiny_backbone, "chain-5", seed=5), "has other weights"),
        (lambda: renamed(deeper, "chain-deeper"), "has another architecture"),
        (lambda: renamed(residual_backbone, "residual"), "has another architecture"),
    ],
    ids=["other-weights", "deeper-sibling", "other-architecture"],
)
def test_another_backbone_is_refused_by_name(other, what, tmp_path):  # promise 17
    wrap(renamed(tiny_backbone, "chain-0")).save_pretrained(tmp_path / "saved")
    backbone = other()
    message = f"trained on 'chain-0'; the backbone given, '{backbone.name}', {what}. .*`check_backbone=False`"
    model = wrap(backbone)
    before = bits(model)
    with pytest.raises(BackboneMismatchError, match=message):
        model.load_adapter(tmp_path / "saved")
    assert same_bits(bits(model), before)
    backbone = other().train()
    modes = [m.training for m in backbone.modules()]
    with pytest.raises(BackboneMismatchError, match=message):
        CIAOModel.from_pretrained(backbone, tmp_path / "saved")
    assert [m.training for m in backbone.modules()] == modes
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("other", [lambda: tiny_backbone(seed=5), deeper], ids=["other-weights", "deeper-sibling"])
def test_another_backbone_can_be_insisted_on_with_a_warning(other, tmp_path):  # promise 17
    model = train(wrap())
    model.save_pretrained(tmp_path / "saved")
    target = wrap(other())
    with pytest.warns(UserWarning, match="Loading all the same: The adapter was trained on") as caught:
        target.load_adapter(tmp_path / "saved", check_backbone=False)
    assert [warning.filename for warning in caught] == [__file__]
    assert same_bits(bits(target.adapters["saved"]), bits(model.adapters["default"]))
    with pytest.warns(UserWarning, match="Loading all the same") as caught:
        CIAOModel.from_pretrained(other(), tmp_path / "saved", check_backbone=False)
    assert [warning.filename for warning in caught] == [__file__]


def test_what_does_not_fit_cannot_be_insisted_on(tmp_path):  # promise 17
    wrap().save_pretrained(tmp_path / "saved")
    model = wrap(residual_backbone())
    before = bits(model)
    with pytest.warns(UserWarning, match="Loading all the same"), pytest.raises(BackboneMismatchError, match="'3'"):
        model.load_adapter(tmp_path / "saved", check_backbone=False)
    assert same_bits(bits(model), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@BACKBONES
def test_the_same_weights_in_another_dtype_are_the_same_backbone(make, dtype, tmp_path):  # promise 17
    model = train(wrap(make())).eval()
    model.save_pretrained(tmp_path / "saved")
    other = CIAOModel.from_pretrained(make().to(dtype), tmp_path / "saved").eval()
    torch.testing.assert_close(other(pixels()).logits.float(), model(pixels()).logits, rtol=0.1, atol=0.1)
    other.save_pretrained(tmp_path / "again")
    again = CIAOModel.from_pretrained(make(), tmp_path / "again").eval()
    assert torch.equal(again(pixels()).logits, model(pixels()).logits)


def test_pixels_of_another_size_are_refused(tmp_path):
    wrap().save_pretrained(tmp_path / "saved")
    backbone = tiny_backbone()
    backbone.input_size = (3, 20, 20)
    with pytest.raises(BackboneMismatchError, match=r"takes pixels of \(3, 16, 16\); this model \(3, 20, 20\)"):
        wrap(backbone).load_adapter(tmp_path / "saved")


# -- preprocessing -------------------------------------------------------------------------------------------------

PREPROCESSING = Preprocessing(size=(16, 16), mode="RGB", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def with_preprocessing(preprocessing):
    backbone = tiny_backbone()
    backbone.preprocessing = preprocessing
    return backbone


def test_preprocessing_travels_with_the_adapter(tmp_path):
    wrap(with_preprocessing(PREPROCESSING)).save_pretrained(tmp_path / "saved")
    assert CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "saved").preprocessing == PREPROCESSING
    assert CIAOModel.from_pretrained(with_preprocessing(PREPROCESSING), tmp_path / "saved").active_adapter == "saved"


def test_pixels_prepared_in_another_way_are_refused_with_what_differs(tmp_path):
    wrap(with_preprocessing(PREPROCESSING)).save_pretrained(tmp_path / "saved")
    other = Preprocessing(size=(16, 16), mode="RGB", mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))
    model = wrap(with_preprocessing(other))
    before = bits(model)
    with pytest.raises(BackboneMismatchError, match=r"image_mean: \[0.5, 0.5, 0.5\] there, \[0.4, 0.4, 0.4\] here"):
        model.load_adapter(tmp_path / "saved")
    assert same_bits(bits(model), before)
    model.load_adapter(tmp_path / "saved", check_preprocessing=False)
    assert model.preprocessing == other


def test_a_stale_preprocessor_file_does_not_stay(tmp_path):
    wrap(with_preprocessing(PREPROCESSING)).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / PREPROCESSOR_FILE).exists()
    wrap().save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / PREPROCESSOR_FILE).exists()
    assert CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "saved").preprocessing is None


# -- names and cost ------------------------------------------------------------------------------------------------


def test_the_folder_names_the_adapter_and_loading_chooses_nothing(tmp_path):
    model = wrap()
    model.save_pretrained(tmp_path / "x.y")
    assert model.load_adapter(tmp_path / "x.y") == "x.y"
    assert model.load_adapter(str(tmp_path / "x.y") + "/", "named") == "named"
    assert model.active_adapter == "default"
    assert not any(p.requires_grad for p in model.adapters["x.y"].parameters())


def test_loading_the_twentieth_adapter_takes_as_much_as_the_second(tmp_path):  # promise 20
    model = wrap()
    model.save_pretrained(tmp_path / "saved")
    model.load_adapter(tmp_path / "saved", "first")  # imports what it needs

    def calls(name):
        count = 0

        def watch(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(watch)
        try:
            model.load_adapter(tmp_path / "saved", name)
        finally:
            sys.setprofile(None)
        return count

    costs = [calls(f"adapter-{k}") for k in range(2, 21)]
    assert max(costs) <= 1.02 * costs[0]


def test_a_config_that_could_not_be_read_again_is_not_saved(tmp_path):
    names = {n: f"{n} " + 1000 * "long" for n in range(1100)}
    model = wrap(num_labels=1100, id2label=names, hidden_sizes=(2,))
    with pytest.raises(AdapterFileError, match=r"would have 4,\d+,\d+ bytes, and none above 4,194,304 is read"):
        model.save_pretrained(tmp_path / "fer")
    assert not [*tmp_path.iterdir()]


def test_loading_warns_of_nothing(tmp_path):
    wrap().save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "saved")


@pytest.mark.parametrize(("tensor", "factor"), [("3.weight", 5.0), ("0.weight", 0.2), ("4.running_var", 10.0)])
def test_a_backbone_with_one_scaled_tensor_is_another(tensor, factor):  # promise 17
    one, other = tiny_backbone(), tiny_backbone()
    other.state_dict()[tensor].mul_(factor)
    assert same_backbone(backbone_signature(one), backbone_signature(tiny_backbone().bfloat16().float()))
    assert not same_backbone(backbone_signature(one), backbone_signature(other))
