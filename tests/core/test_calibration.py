"""Where `a` of Eq. 1 starts, and that a training leaves alone what was started before."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.calibration import decay_start, start_decay
from ciao_peft.errors import AdapterNotFoundError, InputError, TrainingError
from ciao_peft.inhibition import DECAY_START
from helpers.fakes import SIZE, small_config, tiny_backbone

STARTS = [*(float(f"{digit}e{power}") for power in range(-4, 4) for digit in (1, 3)), 1e4]


def faces(count=24, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    return [{"pixel_values": scale * torch.randn(SIZE, generator=generator), "labels": n % 3} for n in range(count)]


def pixels(count=24, scale=1.0):
    return torch.stack([face["pixel_values"] for face in faces(count, scale)])


def wrap(backbone=None, **changes):
    return get_ciao_model(backbone or tiny_backbone(), small_config(decay_init=None, **changes), input_size=SIZE)


def louder(factor, backbone=None):
    """The backbone whose last convolution unit answers `factor` times as strongly."""
    backbone = backbone or tiny_backbone()
    for name in ("weight", "bias"):
        getattr(backbone[4], name).data.mul_(factor)
    return backbone


def decays(model):
    return [layer.decay.detach() for layer in model.adapters["default"].inhibition]


def train(model, data=None, **changes):
    values = {"num_train_epochs": 1, "per_device_train_batch_size": 8}
    trainer = CIAOTrainer(model, CIAOTrainingArguments(**(values | changes)))
    trainer.train(faces() if data is None else data)
    return trainer


@pytest.mark.parametrize(
    ("spread", "start"), [(0.33, 3.0), (0.1, 1.0), (0.04, 0.3), (0.9, 10.0), (5.0, 30.0), (1e-9, 1e-4), (1e9, 1e4)]
)
def test_a_starts_at_about_nine_spreads(spread, start):
    assert decay_start(spread) == start


@pytest.mark.parametrize("spread", [0.0, float("inf"), float("nan")])
def test_what_says_nothing_leaves_the_start_open(spread):
    assert decay_start(spread) == DECAY_START


def test_a_start_is_never_far_from_nine_spreads():
    spreads = torch.logspace(-4, 3, 200).tolist()
    for spread in spreads:
        assert decay_start(spread) in STARTS
        assert 1 / 2 <= decay_start(spread) / (9 * spread) <= 2


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_the_start_is_that_of_the_spread_of_u(factor):
    model = wrap(louder(factor))
    with torch.no_grad():
        u = model.backbone[:6](pixels())
    start = start_decay(model, [{"pixel_values": pixels()[:7]}, {"pixel_values": pixels()[7:]}])
    assert start == decay_start(u.std(correction=0).item())
    assert model.peft_config["default"].decay_init == start
    for decay in decays(model):
        torch.testing.assert_close(decay, torch.full_like(decay, start))


def test_what_u_never_falls_below_is_no_spread():
    raised = tiny_backbone()
    raised[4].bias.data.fill_(3000.0)
    raised[4].weight.data.mul_(0.1)
    model = wrap(raised)
    with torch.no_grad():
        u = model.backbone[:6](pixels())
    assert u.mean() > 2000 > 10_000 * u.std()
    assert start_decay(model, [{"pixel_values": pixels()}], "default") == decay_start(u.std(correction=0).item())


def test_a_backbone_a_hundred_times_as_loud_starts_a_hundred_times_as_high():
    starts = [start_decay(wrap(louder(factor)), [{"pixel_values": pixels()}], "default") for factor in (1, 100)]
    assert starts[1] == pytest.approx(100 * starts[0])


@pytest.mark.parametrize("training", [False, True])
def test_looking_changes_nothing_else(training):
    model = wrap(dropout=0.5).train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    start_decay(model, [{"pixel_values": pixels()}], "default")
    assert model.training == training
    assert {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])} <= {
        key for key in before if key.endswith(("raw_decay", "start_decay"))
    }
    assert not any(layer._forward_pre_hooks for layer in model.adapters["default"].inhibition)


def test_batches_of_a_training_loop_will_do_and_not_all_are_read():
    def batches():
        for _ in range(4):
            yield {"pixel_values": pixels(100), "labels": torch.zeros(100, dtype=torch.long)}
        raise AssertionError("read on")

    model = wrap(louder(0.1))
    assert start_decay(model, batches()) == start_decay(model, [{"pixel_values": pixels(100)}])


def test_it_is_the_adapter_that_is_named():
    model = wrap(louder(0.1))
    model.add_adapter("other", small_config(decay_init=None))
    start = start_decay(model, [{"pixel_values": pixels()}], "other")
    assert (model.peft_config["other"].decay_init, model.peft_config["default"].decay_init) == (start, None)
    assert torch.equal(decays(model)[0], decays(wrap())[0])
    assert model.active_adapter == "default"


def test_stored_features_give_the_same_start():
    model = wrap(louder(0.1))
    features = model.extract_features(pixels(), include_excitation=True)
    start = start_decay(model, [{"features": features}], "default")
    assert start == start_decay(model, [{"pixel_values": pixels()}], "default")


class Parallel(nn.Module):
    """Two convolutions side by side, one twice as loud as the other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.one, self.other = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 5, padding=2)
        self.input_size = SIZE

    def forward(self, x):
        x = self.stem(x)
        return torch.cat([self.one(x).relu(), 2 * self.other(x).relu()], dim=1)


def test_all_masked_convolutions_start_alike():
    model = wrap(Parallel())
    start = start_decay(model, [{"pixel_values": pixels()}], "default")
    assert len(decays(model)) > 1
    for decay in decays(model):
        torch.testing.assert_close(decay, torch.full_like(decay, start))


def test_refusals_change_nothing():
    model = wrap()
    model.add_adapter("plain", small_config(inhibition=False))
    with pytest.raises(AdapterNotFoundError):
        start_decay(model, [{"pixel_values": pixels()}], "nobody")
    with pytest.raises(InputError, match="no mask"):
        start_decay(model, [{"pixel_values": pixels()}], "plain")
    with pytest.raises(InputError, match="no samples"):
        start_decay(model, [], "default")
    with pytest.raises(InputError):
        start_decay(model, [{"pixel_values": pixels()}, {"pixel_values": pixels()[:, :2]}], "default")
    with pytest.raises(InputError, match="needs `pixel_values` or `features`; this one has 'labels'"):
        start_decay(model, [{"labels": torch.zeros(3)}])
    assert model.peft_config["default"].decay_init is None
    assert torch.equal(decays(model)[0], decays(wrap())[0])
    assert not any(layer._forward_pre_hooks for layer in model.adapters["default"].inhibition)


# -- the trainer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["auto", "never"])
@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
def test_training_starts_a_by_its_data(tuning, cache):
    model = wrap(louder(0.01), tuning=tuning, learn_decay=False)
    with torch.no_grad():
        wanted = decay_start(model.backbone[:6](pixels()).std(correction=0).item())
    assert wanted < DECAY_START / 10
    train(model, feature_cache=cache)
    assert model.peft_config["default"].decay_init == wanted
    torch.testing.assert_close(decays(model)[0], torch.full_like(decays(model)[0], wanted))


def test_a_start_that_is_given_stays():
    model = get_ciao_model(louder(0.01), small_config(decay_init=2.0, learn_decay=False), input_size=SIZE)
    train(model)
    assert model.peft_config["default"].decay_init == 2.0
    torch.testing.assert_close(decays(model)[0], torch.full_like(decays(model)[0], 2.0))


def test_the_start_depends_neither_on_the_seed_nor_on_the_batches():
    torch.manual_seed(0)
    mixed = [{**face, "pixel_values": face["pixel_values"] * 10.0 ** (n % 2)} for n, face in enumerate(faces(48))]
    starts = set()
    for factor in torch.linspace(0.1, 1.0, 5).tolist():
        for changes in ({"seed": 1}, {"seed": 2}, {"per_device_train_batch_size": 4}):
            model = wrap(louder(factor))
            train(model, mixed, max_steps=1, **changes)
            starts.add((factor, model.peft_config["default"].decay_init))
    assert len(starts) == 5


class Adversarial(list):
    """Pictures that are made by a gradient and leave torch on their way, as those of an augmentation may."""

    def __getitem__(self, index: Any) -> Any:
        face = super().__getitem__(index)
        x = face["pixel_values"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad((x**2).sum(), x)
        blurred = nn.functional.avg_pool2d(torch.matmul(gradient, torch.eye(SIZE[2])), 1)
        return {**face, "pixel_values": torch.from_numpy(blurred.numpy())}


def test_data_is_read_as_it_is_in_training():
    data = Adversarial(faces())
    data.labels = torch.arange(24) % 3
    model = wrap()
    train(model, data, feature_cache="never", bf16=True)
    assert model.peft_config["default"].decay_init is not None


def test_an_a_that_was_learned_elsewhere_stays():
    model = wrap(louder(0.1))
    with torch.no_grad():
        model.adapters["default"].inhibition[0].raw_decay.add_(0.5)
    learned = decays(model)[0]
    train(model, mask_learning_rate=0.0)
    assert torch.equal(decays(model)[0], learned)
    assert model.peft_config["default"].decay_init is None


def test_clips_start_by_their_frames():
    model = get_ciao_model(
        louder(0.01), small_config(decay_init=None, frames=2, recurrent_size=4, learn_decay=False), input_size=SIZE
    )
    frames = pixels()
    with torch.no_grad():
        wanted = decay_start(model.backbone[:6](frames).std(correction=0).item())
    data = [{"pixel_values": frames[2 * n : 2 * n + 2], "labels": n % 3} for n in range(12)]
    train(model, data, feature_cache="never")
    assert model.peft_config["default"].decay_init == wanted < DECAY_START


def test_without_a_mask_there_is_nothing_to_start():
    model = wrap(inhibition=False)
    train(model)
    assert model.peft_config["default"].decay_init is None


def test_the_start_is_the_one_that_is_given_by_hand():
    found = wrap(louder(0.1))
    train(found)
    start = found.peft_config["default"].decay_init
    given = get_ciao_model(louder(0.1), dataclasses.replace(found.peft_config["default"]), input_size=SIZE)
    assert given.peft_config["default"].decay_init == start
    train(given)
    for key, tensor in found.adapters["default"].state_dict().items():
        assert torch.equal(tensor, given.adapters["default"].state_dict()[key]), key


def test_a_second_training_goes_on_with_the_a_of_the_first(tmp_path):
    model = wrap(louder(0.1))
    train(model)
    learned = decays(model)[0]
    model.save_pretrained(tmp_path)
    again = CIAOModel.from_pretrained(louder(0.1), tmp_path, adapter_name="default")
    assert torch.equal(decays(again)[0], learned)
    train(again, faces(scale=50.0), mask_learning_rate=0.0)
    assert torch.equal(decays(again)[0], learned)


def test_a_resumed_training_goes_on_with_the_a_of_its_checkpoint(tmp_path):
    options = {"num_train_epochs": 2, "output_dir": str(tmp_path / "run"), "save_strategy": "epoch"}
    whole = wrap(louder(0.1))
    train(whole, **options)
    resumed = wrap(louder(0.1))
    train(resumed, **options, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.peft_config == whole.peft_config
    for key, tensor in whole.adapters["default"].state_dict().items():
        assert torch.equal(tensor, resumed.adapters["default"].state_dict()[key]), key
    other = get_ciao_model(louder(0.1), small_config(decay_init=7.0), input_size=SIZE)
    with pytest.raises(TrainingError, match=r"'decay_init' is .* there and 7\.0 here"):
        train(other, **options, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))


def test_training_from_features_and_from_pixels_starts_alike(tmp_path):
    starts = set()
    for store in (True, False):
        model = wrap(louder(0.03))
        train(model, cache_features(model, faces(), tmp_path) if store else faces(), feature_cache="never")
        starts.add(model.peft_config["default"].decay_init)
    assert len(starts) == 1


def test_it_is_left_open_until_training():
    config = CIAOConfig(problem_type="regression", num_labels=1)
    assert config.decay_init is None
    assert CIAOConfig.from_dict(config.to_dict()) == config
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model = get_ciao_model(net, config, input_size=SIZE)
    torch.testing.assert_close(decays(model)[0], torch.full((4,), DECAY_START))
