"""Training of baselines: the batches, updates and seeds of a trainer; and Head2Toe, which trains twice."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.backbone import open_backbone
from ciao_peft.errors import DataError, TrainingError
from ciao_peft.study.baselines import build_baseline
from ciao_peft.study.baselines.base import Baseline
from ciao_peft.study.baselines.fit import fit, predict
from ciao_peft.study.baselines.head2toe import Layers, LinearOnLayers
from ciao_peft.trainer import trains_at_once
from ciao_peft.trainer.accelerator import precision_shared
from helpers.fakes import SIZE, bits, pixels, residual_backbone, same_bits, small_config, tiny_backbone
from helpers.training import BALANCED

CLASSES = {"problem_type": "single_label_classification", "num_labels": 3}
PROBLEMS = {
    "classes": (CLASSES, lambda n: n % 3),
    "distributions": (CLASSES, lambda n: [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]][n % 3]),
    "values": ({"problem_type": "regression", "num_labels": 2}, lambda n: [(n % 5) / 5, -(n % 3) / 3]),
    "concordance": ({"problem_type": "regression", "num_labels": 1, "regression_loss": "ccc"}, lambda n: [(n % 5) / 5]),
    "sets": ({"problem_type": "multi_label_classification", "num_labels": 2}, lambda n: [n % 2, (n // 2) % 2]),
}
SETTINGS = {
    "as-it-is": {},
    "accumulated": {"gradient_accumulation_steps": 2, "lr_scheduler_type": "linear", "warmup_ratio": 0.3},
    "sgd": {"optim": "sgd", "class_balanced_batches": False, "weight_decay": 0.1},
    "bfloat16": {"bf16": True, "max_grad_norm": 0.0},
}


def faces(count=20, label_of=lambda n: n % 3, seed=0):
    kinds = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(seed))
    return [{"pixel_values": kinds[n % 3] + noise[n], "labels": torch.as_tensor(label_of(n))} for n in range(count)]


def arguments(**changes):
    values = BALANCED | {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 6,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return CIAOTrainingArguments(**({**values, "learning_rate": 0.01} | changes))


def on_the_way(encoder, config):
    return Baseline(open_backbone(encoder, SIZE), config)


# -- as a trainer trains an adapter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_head_alone_ends_with_the_bits_of_an_adapter_without_mask(kind, settings):
    changes, label_of = PROBLEMS[kind]
    encoder, args = tiny_backbone(), arguments(**SETTINGS[settings], seed=3)
    config = CIAOConfig(**changes, hidden_sizes=(8,), inhibition=False, contrastive_weight=0.0)
    stored = cache_features(encoder, faces(label_of=label_of), include_excitation=True)
    model = get_ciao_model(encoder, config)
    trainer = CIAOTrainer(model, args)
    trainer.train(stored)
    baseline = on_the_way(encoder, config)
    start = bits(baseline.head)
    fitted = fit(baseline, stored, args)
    assert same_bits(bits(baseline.head), bits(model.adapters["default"].head))
    assert not same_bits(bits(baseline.head), start)
    of_losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (fitted.log, trainer.log_history)]
    assert of_losses[0] == of_losses[1]
    assert fitted.global_step == trainer.log_history[-1]["step"]
    assert torch.equal(predict(baseline, stored, args), trainer.predict(stored).logits)


def test_the_same_seed_gives_the_same_baseline_whatever_came_before():
    found = []
    for seed in (1, 1, 2):
        torch.rand(7)
        baseline = build_baseline("lora", tiny_backbone(), small_config(), rank=2)
        fit(baseline, faces(), arguments(seed=seed))
        found.append(bits(baseline))
    assert same_bits(found[0], found[1])
    assert not same_bits(found[0], found[2])


@pytest.mark.parametrize("name", ["lora", "head2toe"])
def test_fitting_and_predicting_leave_the_global_random_state(name):
    baseline = build_baseline(name, tiny_backbone(), small_config())

    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    fit(baseline, faces(), arguments())
    predict(baseline, faces(), arguments())
    assert states() == before


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("name", ["lora", "wide_head", "norm_and_bias", "head2toe"])
def test_every_problem_is_learned(name, kind):
    changes, label_of = PROBLEMS[kind]
    baseline = build_baseline(name, tiny_backbone(), CIAOConfig(**changes, hidden_sizes=(8,), dropout=0.0))
    args = arguments(num_train_epochs=25, per_device_train_batch_size=30, class_balanced_batches=False)
    log = fit(baseline, faces(30, label_of), args).log
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]
    answers = predict(baseline, faces(30, label_of), args)
    assert answers.shape == (30, changes["num_labels"])
    assert answers.isfinite().all()


def test_predictions_come_in_the_order_of_the_dataset_whatever_the_batch_size():
    baseline = build_baseline("residual_adapters", tiny_backbone(), small_config(pooling="flatten"))
    fit(baseline, faces(), arguments())
    whole = baseline(torch.stack([face["pixel_values"] for face in faces()]))
    for size in (1, 6, 20, 64):
        found = predict(baseline, faces(), arguments(per_device_eval_batch_size=size))
        torch.testing.assert_close(found, whole.detach(), rtol=1e-5, atol=1e-6)
    unlabelled = [{"pixel_values": face["pixel_values"]} for face in faces()]
    torch.testing.assert_close(predict(baseline, unlabelled, arguments()), whole.detach(), rtol=1e-5, atol=1e-6)


def test_what_is_put_into_the_encoder_has_the_encoders_rate():
    baseline = build_baseline("lora", tiny_backbone(), small_config(), rank=2)
    before = bits(baseline)
    log = fit(
        baseline, faces(), arguments(learning_rate=1e-12, encoder_learning_rate=0.02, lr_scheduler_type="constant")
    ).log
    assert (log[0]["encoder_learning_rate"], log[0]["learning_rate"]) == (0.02, 1e-12)
    moved = {key for key, now in bits(baseline).items() if (now - before[key]).abs().max() > 1e-6}
    assert {key.rpartition(".lora_")[1] for key in moved} == {".lora_"}


def test_pictures_are_prepared_as_the_encoder_says():
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pictures

    from ciao_peft.preprocessing import Preprocessing

    encoder = tiny_backbone()
    encoder.preprocessing = Preprocessing(size=SIZE[1:])
    rng = np.random.default_rng(0)
    pictures = [Pictures.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in range(6)]
    features = Features({"image": Image(), "label": Value("int64")})
    table = Dataset.from_dict({"image": pictures, "label": [0, 1, 2] * 2}, features=features)
    for name in ("lora", "head2toe"):
        baseline = build_baseline(name, encoder, small_config())
        fit(baseline, table, arguments(num_train_epochs=1))
        expected = baseline(encoder.preprocessing(pictures))
        torch.testing.assert_close(predict(baseline, table, arguments()), expected.detach(), rtol=1e-3, atol=1e-3)


def test_the_precision_of_accelerators_that_are_there_stays():
    from accelerate import Accelerator

    theirs = Accelerator()
    for own, other in (("no", True), ("bf16", False)):
        with precision_shared(own):
            baseline = build_baseline("lora", tiny_backbone(), small_config())
            fit(baseline, faces(), arguments(max_steps=1, bf16=other))
            assert theirs.mixed_precision == own
            assert predict(baseline, faces(), arguments(bf16=other)).dtype == torch.float32
            assert theirs.mixed_precision == own
            assert not trains_at_once() or torch.cuda.is_available()
            assert theirs.mixed_precision == own


# -- what is refused --------------------------------------------------------------------------------------------------


def test_evaluations_on_the_way_are_refused():
    baseline = build_baseline("lora", tiny_backbone(), small_config())
    for changes in ({"load_best_model_at_end": True}, {"early_stopping_patience": 2}):
        with pytest.raises(TrainingError, match="A baseline is not evaluated while it trains"):
            fit(baseline, faces(), arguments(**changes))


def test_several_processes_are_refused(monkeypatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr(sys.modules[fit.__module__], "make_apart", lambda args: (Two(), {}))
    with pytest.raises(TrainingError, match="A baseline trains in one process; spread trainings over processes"):
        fit(build_baseline("lora", tiny_backbone(), small_config()), faces(), arguments())


def test_data_that_cannot_be_learned_are_refused():
    baseline = build_baseline("lora", tiny_backbone(), small_config())
    with pytest.raises(DataError, match="train_dataset is empty"):
        fit(baseline, [], arguments())
    with pytest.raises(TrainingError, match="train_dataset is empty"):
        fit(baseline, cache_features(tiny_backbone(), faces()).select([]), arguments())
    with pytest.raises(TrainingError, match="train_dataset has no labels"):
        fit(baseline, [{"pixel_values": face["pixel_values"]} for face in faces()], arguments())


def test_two_steps_are_refused_where_nothing_is_compared():
    with pytest.raises(TrainingError, match="`two_steps`"):
        fit(build_baseline("lora", tiny_backbone(), small_config()), faces(), arguments(two_steps=True))


def test_diverged_training_is_told():
    baseline = build_baseline("lora", tiny_backbone(), small_config())
    with pytest.raises(TrainingError, match="diverged"):
        fit(baseline, faces(), arguments(learning_rate=1e9, max_grad_norm=0, optim="sgd", num_train_epochs=6))


# -- Head2Toe ---------------------------------------------------------------------------------------------------------


def averaged(maps: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(maps, side).flatten(1)


def test_layers_are_the_units_answers_and_the_final_map():
    encoder, x = tiny_backbone(), pixels()
    layers = Layers(open_backbone(encoder, SIZE), size=110)  # 8 x 3 x 3, 12 x 3 x 3, and the final map in as many
    expected = [averaged(encoder[:end](x), 3) for end in (3, 6, 7)]
    assert layers.sizes == [72, 108, 108]
    torch.testing.assert_close(layers(x), torch.cat(expected, dim=1))
    few = Layers(open_backbone(encoder, SIZE), size=5)  # fewer than channels: one number of each
    torch.testing.assert_close(few(x)[:, :8], encoder[:3](x).mean(dim=(2, 3)))


class Overwriting(nn.Module):
    """A residual network that adds its shortcut in place."""

    def __init__(self):
        super().__init__()
        self.inner = residual_backbone()
        self.input_size = SIZE

    def forward(self, x):
        net = self.inner
        shortcut = x = net.stem(x)
        x = net.bn2(net.conv2(net.relu(net.bn1(net.conv1(x)))))
        x = x.add_(shortcut)
        return net.classifier(net.relu(x).mean(dim=(2, 3)))


def test_an_answer_is_taken_before_others_write_into_it():
    x = pixels()
    net = residual_backbone()
    with torch.no_grad():
        stem = net.stem(x)
        first = net.bn1(net.conv1(stem)).relu()
        second = net.bn2(net.conv2(first))
        last = (second + stem).relu()
    layers = Layers(open_backbone(Overwriting().eval(), SIZE), size=32)
    expected = torch.cat([averaged(maps, 2) for maps in (stem, first, second, last)], dim=1)
    torch.testing.assert_close(layers(x), expected)


def test_a_number_counts_by_its_squared_weights():
    head = LinearOnLayers(small_config(num_labels=2, hidden_sizes=()), [torch.tensor([0, 1]), torch.tensor([2])])
    getattr(head.head, "0").weight.data = torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.5, 1.0]])
    assert head.scores().tolist() == [25.0, 0.25, 2.0]


def test_numbers_of_a_layer_are_scaled_together_to_unit_length():
    head = LinearOnLayers(
        small_config(num_labels=2), [torch.tensor([1, 2]), torch.tensor([], dtype=torch.long), torch.tensor([4])]
    )
    linear = getattr(head.head, "0")
    linear.weight.data, linear.bias.data = torch.eye(2, 3), torch.zeros(2)
    assert head(features=[torch.tensor([[9.0, 3.0, 4.0, 9.0, -7.0]])]).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)]
    ]


def test_the_penalty_has_the_gradient_of_the_group_lasso():
    head = LinearOnLayers(small_config(num_labels=3), [torch.arange(5)], group_lasso=0.3)
    weight = getattr(head.head, "0").weight
    weight.data[:, 2] = 0.0  # where the length has no gradient, the penalty pushes nowhere
    weight.grad = torch.ones_like(weight)
    head.add_penalty()
    lengths = 0.3 * weight.square().sum(dim=0).sqrt()[[0, 1, 3, 4]].sum()
    (expected,) = torch.autograd.grad(lengths, weight)
    torch.testing.assert_close(weight.grad, 1 + expected.nan_to_num())


def test_the_penalty_is_added_once_however_many_micro_batches_make_an_update():
    # No gradient but the penalty's: with equal features of length zero, logits are the biases.
    moved = []
    for count in (1, 2, 3):
        head = LinearOnLayers(small_config(num_labels=3), [torch.arange(4)], group_lasso=0.5)
        before = getattr(head.head, "0").weight.detach().clone()
        data = cache_features(tiny_backbone(), faces(6))
        data._tensors = (torch.zeros(6, 4),)
        plain = {"optim": "sgd", "sgd_momentum": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "constant"}
        sizes = {"per_device_train_batch_size": 6 // count, "gradient_accumulation_steps": count}
        args = arguments(max_steps=1, learning_rate=0.1, **plain, **sizes)
        fit(head, data, args)
        moved.append(before - getattr(head.head, "0").weight.detach())
        torch.testing.assert_close(moved[-1], 0.1 * 0.5 * F.normalize(before, dim=0))
    assert all(torch.equal(one, moved[0]) for one in moved)


@pytest.mark.parametrize("group_lasso", [0.0, 0.05])
def test_head2toe_keeps_the_numbers_that_count_and_learns_anew_on_them(group_lasso):
    config, args = small_config(), arguments(seed=5)
    baseline = build_baseline("head2toe", tiny_backbone(), config, size=48, fraction=0.1, group_lasso=group_lasso)
    assert baseline.num_kept == 13  # of 128
    stored = baseline.stored(faces())
    fitted = fit(baseline, faces(), args)
    every = LinearOnLayers(config, [torch.arange(0, 32), torch.arange(32, 80), torch.arange(80, 128)], group_lasso)
    first = fit(every, stored, args)
    lengths = getattr(every.head, "0").weight.detach().norm(dim=0)
    best = lengths.argsort(descending=True)[:13].sort().values
    assert baseline.head.rows.tolist() == best.tolist()
    assert fitted.global_step == 2 * first.global_step  # each step takes the whole budget
    again = LinearOnLayers(config, [best[(best >= a) & (best < b)] for a, b in ((0, 32), (32, 80), (80, 128))])
    fit(again, stored, args)
    assert same_bits(bits(baseline.head), bits(again))


def test_stored_numbers_of_all_layers_answer_as_pixels_do():
    baseline = build_baseline("head2toe", tiny_backbone(), small_config(), size=48)
    fit(baseline, faces(), arguments())
    x = torch.stack([face["pixel_values"] for face in faces()])
    torch.testing.assert_close(predict(baseline, faces(), arguments()), baseline(x), rtol=1e-2, atol=1e-3)
    stored = baseline.stored(faces())
    assert baseline.stored(stored) is stored
    assert torch.equal(predict(baseline, stored, arguments()), predict(baseline, faces(), arguments()))
