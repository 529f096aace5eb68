"""Training of one adapter: what changes, what does not, and what is left of it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import (
    ConfigError,
)
from ciao_peft.trainer.arguments import ENCODER_RATE_FACTOR, MASK_RATE_FACTOR
from ciao_peft.trainer.job import LogitsAndEmbeddings
from ciao_peft.trainer.loader import Batch
from ciao_peft.trainer.optimizer import batch_losses, make_optimizer
from helpers.fakes import residual_backbone, small_config, tiny_backbone
from helpers.training import TASKS, assert_same, faces, make_model, make_trainer, scripted, weights


def numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


# -- what training does ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_loss_and_gradient_are_those_of_the_model(kind):
    changes, label_of = TASKS[kind]
    model, data = make_model(**changes, dropout=0.0), faces(9, label_of)
    pixels, labels = (torch.stack([torch.as_tensor(f[key]) for f in data]) for key in ("pixel_values", "labels"))
    labels = labels if labels.ndim == 1 else labels.float()
    batch = Batch({"pixel_values": pixels}, labels, [9])
    loss = batch_losses(LogitsAndEmbeddings(model), batch, model.peft_config["default"], torch.no_grad())
    expected = model(pixels, labels=labels).loss
    assert loss[0].item() == expected.item()


@pytest.mark.parametrize("kind", TASKS)
def test_every_problem_is_learned(kind):
    changes, label_of = TASKS[kind]
    rates = {"learning_rate": 0.003, "mask_learning_rate": 0.003}
    trainer = make_trainer(make_model(**changes, dropout=0.0), num_train_epochs=8, max_grad_norm=0, **rates)
    data = faces(30, label_of)
    before = trainer.evaluate(data)["eval_loss"]
    output = trainer.train(data, data)
    assert trainer.evaluate(data)["eval_loss"] < before
    assert output.global_step == 8 * 4
    rates = [entry["learning_rate"] for entry in trainer.log_history if "loss" in entry]
    assert rates == [0.003 * trainer.args.rate_factor(step, 32) for step in range(32)]
    first = trainer.log_history[0].keys()
    assert {"loss", "task_loss", "contrastive_loss", "learning_rate", "mask_learning_rate"} <= first
    assert "grad_norm" not in first


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
def test_all_of_the_adapter_changes_and_nothing_else(tuning):
    backbone = residual_backbone()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    model = make_model(backbone, tuning=tuning)
    model.add_adapter("other", small_config())
    own, others = weights(model), weights(model, "other")
    random_states = torch.get_rng_state(), random.getstate(), numpy_state()
    modes = model.training, {n: p.requires_grad for n, p in model.named_parameters()}
    make_trainer(model, weight_decay=0.0).train(faces())
    trained = weights(model)
    changed = {key for key in own if not torch.equal(own[key], trained[key])}
    started = {"inhibition.0.start_decay"}  # a training writes down where `a` starts
    assert changed - started == model.adapters["default"].trainable
    assert_same(weights(model, "other"), others)
    assert_same(backbone.state_dict(), before)
    assert (model.training, {n: p.requires_grad for n, p in model.named_parameters()}) == modes
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (random.getstate(), numpy_state()) == random_states[1:]


def test_the_same_seed_gives_the_same_adapter_whatever_came_before():
    results = []
    for seed in (1, 1, 2):
        torch.rand(len(results) + 1)
        trainer = make_trainer(seed=seed)
        trainer.train(faces())
        results.append(weights(trainer.model))
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["head.0.weight"], results[2]["head.0.weight"])


def test_rates_and_weight_decay_by_part():
    model = make_model(tuning="last_conv")
    chosen = {"mask_learning_rate": 0.3, "encoder_learning_rate": 0.2, "weight_decay": 0.5}
    arguments = CIAOTrainingArguments(learning_rate=0.1, **chosen)
    optimizer = make_optimizer(model.adapter_parameters("default"), arguments, "last_conv", "default")
    names = {p: n for n, p in model.adapters["default"].named_parameters()}
    rates = {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, (rate, decay) in rates.items():
        assert rate == {"inhibition": 0.3, "head": 0.1, "excitation": 0.2}[name.split(".")[0]]
        is_weight = model.adapters["default"].get_parameter(name).ndim > 1
        assert decay == (0.5 if is_weight else 0.0), name
    assert {name for name, (_, decay) in rates.items() if not decay} > {"head.0.bias", "inhibition.0.raw_decay"}
    left_out = CIAOTrainingArguments(learning_rate=0.1)
    assert left_out.learning_rates("full") == {
        "head": 0.1,
        "mask": 0.1 * MASK_RATE_FACTOR,
        "encoder": pytest.approx(0.1 * ENCODER_RATE_FACTOR["full"]),
    }
    assert MASK_RATE_FACTOR > 1


def test_accumulated_micro_batches_give_the_update_of_one_batch_where_no_pairs_matter():
    results = []
    for size, accumulated in ((24, 1), (6, 4)):
        trainer = make_trainer(
            make_model(contrastive_weight=0.0, dropout=0.0),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            class_balanced_batches=False,
            num_train_epochs=2,
        )
        assert trainer.train(faces()).global_step == 2
        results.append(weights(trainer.model))
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=1e-4, atol=1e-6)


def test_stored_features_and_live_trunk_train_the_same_adapter():
    results = {}
    for choice in ("never", "auto"):
        trainer = make_trainer(feature_cache=choice)
        trainer.train(faces())
        results[choice] = weights(trainer.model)
    for key in results["auto"]:
        torch.testing.assert_close(results["auto"][key], results["never"][key], rtol=1e-3, atol=1e-5)


def test_the_trunk_runs_once_per_sample_with_stored_features(monkeypatch):
    rows = []
    extract = CIAOModel.extract_features

    def counted(self, pixels, *options):
        rows.append(len(pixels))
        return extract(self, pixels, *options)

    monkeypatch.setattr(CIAOModel, "extract_features", counted)
    make_trainer(num_train_epochs=5).train(faces(24), faces(6, seed=1))
    assert sum(rows) == 24 + 6


def test_bfloat16_learns_too():
    rates = {"learning_rate": 0.01, "mask_learning_rate": 0.01}
    trainer = make_trainer(make_model(dropout=0.0), bf16=True, num_train_epochs=8, **rates)
    trainer.train(faces(30))
    assert trainer.evaluate(faces(30))["eval_accuracy"] > 0.6
    assert {tensor.dtype for tensor in weights(trainer.model).values() if tensor.is_floating_point()} == {torch.float32}
    make_trainer(num_train_epochs=1).train(faces())  # and full precision after it, in the same process


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(ConfigError, match="`fp16` needs a GPU; this training runs on cpu"):
        make_trainer(fp16=True)


class Jittered(torch.utils.data.Dataset):
    """Augments on the fly, with all three global generators."""

    def __init__(self):
        self.faces = faces(16)

    def __len__(self):
        return len(self.faces)

    def __getitem__(self, index):
        face = self.faces[index]
        added = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return face | {"pixel_values": face["pixel_values"] + added}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # where there is one core
def test_workers_change_nothing_even_where_the_dataset_augments(capsys):
    results = []
    for workers in (0, 2):
        trainer = make_trainer(dataloader_num_workers=workers)
        trainer.train(Jittered())
        results.append(weights(trainer.model))
    assert_same(*results)
    assert "shows something else each time" in capsys.readouterr().out


# -- evaluation, best and end ------------------------------------------------------------------------------------------


def test_predictions_come_in_the_order_of_the_dataset_whatever_the_batch_size():
    model, data = make_model(), faces(11)
    expected = model(torch.stack([face["pixel_values"] for face in data])).logits
    for size in (1, 4, 128):
        output = make_trainer(model, per_device_eval_batch_size=size).predict(data)
        torch.testing.assert_close(output.logits, expected, rtol=1e-5, atol=1e-6)
    assert output.labels.tolist() == [n % 3 for n in range(11)]
    hits = (expected.argmax(1) == output.labels).float().mean().item()
    assert output.metrics["test_accuracy"] == pytest.approx(hits)
    without = make_trainer(model).predict([{"pixel_values": face["pixel_values"]} for face in data])
    assert without.labels is None and without.metrics == {}
    torch.testing.assert_close(without.logits, expected, rtol=1e-5, atol=1e-6)


def test_the_best_adapter_comes_back_and_training_stops_when_nothing_gets_better(tmp_path):
    model = make_model()
    kept = []
    arguments = CIAOTrainingArguments(
        num_train_epochs=20,
        per_device_train_batch_size=8,
        metric_for_best_model="eval_score",
        load_best_model_at_end=True,
        early_stopping_patience=3,
        output_dir=str(tmp_path),
    )

    def on_log(entry):
        if "eval_score" in entry:
            kept.append(weights(model))

    trainer = CIAOTrainer(model, arguments, compute_metrics=scripted([1, 2, 5, 3, 5, 4, 9]), on_log=on_log)
    output = trainer.train(faces(), faces(6, seed=1))
    assert output.global_step == 6 * 3  # an equal score is no better one
    assert (output.metrics["best_score"], output.metrics["best_step"]) == (5, 9)
    assert_same(weights(model), kept[2])
    assert_same(load_file(tmp_path / "best" / "adapter_model.safetensors"), kept[2])


def test_a_loss_is_better_when_it_is_smaller():
    trainer = make_trainer(make_model(), num_train_epochs=3, metric_for_best_model="loss")
    output = trainer.train(faces(), faces(6, seed=1))
    assert output.metrics["best_loss"] == min(e["eval_loss"] for e in trainer.log_history if "eval_loss" in e)


def test_log_curve_and_tensorboard_tell_the_same(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(output_dir=tmp_path, report_to=("jsonl", "tensorboard"))
    trainer.train(faces(), faces(6, seed=1))
    lines = [json.loads(line) for line in (tmp_path / "trainer_log.jsonl").read_text().splitlines()]
    assert lines == trainer.log_history
    assert [entry["step"] for entry in lines if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    events = EventAccumulator(str(tmp_path / "runs" / "default")).Reload()
    logged = {event.step: event.value for event in events.Scalars("eval_accuracy")}
    assert logged == pytest.approx({e["step"]: e["eval_accuracy"] for e in lines if "eval_accuracy" in e})
    if __import__("importlib").util.find_spec("matplotlib"):
        assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_trainer().train(faces())
    assert list(tmp_path.iterdir()) == []


def test_a_saved_adapter_answers_as_the_trained_one(tmp_path):
    trainer = make_trainer(output_dir=tmp_path / "run")
    trainer.train(faces(), faces(6, seed=1))
    trainer.save_adapter(tmp_path / "adapter")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "adapter")
    pixels = torch.stack([face["pixel_values"] for face in faces(5)])
    assert torch.equal(again(pixels).logits, trainer.model(pixels).logits)
    record = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["training"]
    assert record["global_step"] == 6
    assert record["arguments"]["seed"] == 42
    scores = [entry for entry in trainer.log_history if "eval_accuracy" in entry][-1]
    assert record["eval_accuracy"] == scores["eval_accuracy"]
    assert str(tmp_path) not in json.dumps(record)  # it may be published
