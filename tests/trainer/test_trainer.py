"""Training of one adapter: what changes, what does not, and what survives a kill."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.errors import (
    AdapterNotFoundError,
    ConfigError,
    DataError,
    FeatureCacheError,
    InputError,
    LaunchError,
    NoActiveAdapterError,
    TrainingError,
)
from ciao_peft.trainer.accelerator import rows_per_process
from ciao_peft.trainer.arguments import ENCODER_RATE_FACTOR, MASK_RATE_FACTOR
from ciao_peft.trainer.checkpoint import checkpoint_folders
from ciao_peft.trainer.job import LogitsAndEmbeddings
from ciao_peft.trainer.loader import Batch, BatchDataset, BatchLoader
from ciao_peft.trainer.optimizer import batch_losses, make_optimizer
from ciao_peft.trainer.sampler import draws_per_group, plan_epoch, positive_groups, smallest_batch
from helpers import killed, two_processes
from helpers.fakes import SIZE, residual_backbone, small_config, tiny_backbone
from helpers.processes import run
from helpers.training import CLASSES, TASKS, assert_same, faces, make_model, make_trainer, scripted, weights


def numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": 0}, "`learning_rate` must be a number from 1e-12 to any size; got 0"),
        ({"learning_rate": "1e-3"}, "`learning_rate` must be a number"),
        ({"learning_rate": math.nan}, "`learning_rate` must be a number"),
        ({"mask_learning_rate": -1}, "`mask_learning_rate` must be a number from 0"),
        ({"num_train_epochs": 0}, "`num_train_epochs`"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` must be a whole number from 1"),
        ({"per_device_train_batch_size": 2.0}, "`per_device_train_batch_size` must be a whole number"),
        ({"gradient_accumulation_steps": True}, "`gradient_accumulation_steps` must be a whole number"),
        ({"optim": "lion"}, "`optim` must be one of 'adamw', 'sgd'; got 'lion'"),
        ({"lr_scheduler_type": "step"}, "`lr_scheduler_type` must be one of"),
        ({"warmup_ratio": 1.5}, "`warmup_ratio` must be a number from 0 to 1"),
        ({"class_balance": 2}, "`class_balance` must be a number from 0 to 1"),
        ({"bf16": True, "fp16": True}, "Choose one of `bf16` and `fp16`"),
        ({"bf16": 1}, "`bf16` must be true or false"),
        ({"eval_strategy": "steps"}, "`eval_steps` goes with `eval_strategy='steps'`; got None with 'steps'"),
        ({"save_steps": 5}, "`save_steps` goes with `save_strategy='steps'`; got 5 with 'no'"),
        ({"save_strategy": "epoch"}, "give `output_dir`"),
        ({"resume_from_checkpoint": True}, "give `output_dir`"),
        ({"report_to": "tensorboard"}, "give `output_dir`"),
        ({"report_to": [1]}, "`report_to` must be text"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "`load_best_model_at_end` needs evaluations"),
        ({"eval_strategy": "no", "early_stopping_patience": 2}, "`early_stopping_patience` needs evaluations"),
        ({"feature_cache": None}, "`feature_cache` must be text"),
        ({"seed": -1}, "`seed` must be a whole number from 0"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name(values, message):
    with pytest.raises(ConfigError) as caught:
        CIAOTrainingArguments(**values)
    assert message in str(caught.value)


def test_arguments_survive_json_and_refuse_unknown_ones():
    arguments = CIAOTrainingArguments(output_dir="out", report_to=["jsonl", "tensorboard"], seed=3)
    assert CIAOTrainingArguments.from_dict(json.loads(json.dumps(arguments.to_dict()))) == arguments
    with pytest.raises(ConfigError, match=r"Unknown setting 'learning_rat'.*did you mean 'learning_rate'"):
        CIAOTrainingArguments.from_dict({"learning_rat": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        arguments.seed = 4


def test_rates_rise_in_the_warm_up_and_fall_along_half_a_cosine():
    arguments = CIAOTrainingArguments(warmup_ratio=0.2, lr_scheduler_type="cosine")
    rates = [arguments.rate_factor(step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert CIAOTrainingArguments(lr_scheduler_type="constant").rate_factor(9, 10) == 1.0


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_has_as_many_draws_as_samples_in_batches_of_one_size(balance, epoch):
    groups = np.array([0] * 50 + [1] * 12 + [2] * 3)
    batches = plan_epoch(groups, 16, seed=1, epoch=epoch, balance=balance)
    assert [len(batch) for batch in batches] == [13] * 5  # 65 samples: no last batch of a single one
    again = plan_epoch(groups, 16, seed=1, epoch=epoch, balance=balance)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))
    other = plan_epoch(groups, 16, seed=1, epoch=epoch + 1, balance=balance)
    assert not np.array_equal(np.concatenate(batches), np.concatenate(other))
    if balance is None:
        assert sorted(np.concatenate(batches)) == list(range(65))


def test_classes_are_drawn_by_the_power_of_their_size():
    sizes = np.array([81, 16, 1])
    rng = np.random.default_rng(0)
    assert draws_per_group(sizes, 0.0, rng).tolist() == [81, 16, 1]
    drawn = np.array([draws_per_group(sizes, 0.5, rng) for _ in range(50)])
    assert (drawn.sum(axis=1) == 98).all()
    assert drawn.mean(axis=0) == pytest.approx([98 * 9 / 14, 98 * 4 / 14, 98 * 1 / 14], abs=0.5)
    assert draws_per_group(np.array([90, 6]), 1.0, rng).tolist() == [48, 48]


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_every_balanced_batch_has_two_samples_of_one_group(batch_size, seed):
    groups = np.array([*([0] * 20), *([1] * 9), 2, 3, 4, 5, 5])
    for batch in plan_epoch(groups, batch_size, seed=seed, epoch=0, balance=0.5):
        kinds = {group: {i for i in batch if groups[i] == group} for group in groups[batch]}
        assert max(map(len, kinds.values())) >= 2


def test_where_nobody_has_a_partner_there_are_batches_all_the_same():
    batches = plan_epoch(np.arange(7), 3, seed=0, epoch=0, balance=1.0)
    assert sorted(np.concatenate(batches)) == list(range(7))
    assert [batch.tolist() for batch in plan_epoch(np.array([0]), 8, seed=0, epoch=0, balance=0.5)] == [[0]]


def test_groups_are_classes_cells_or_sets():
    values = CIAOConfig(problem_type="regression", num_labels=2, num_bins=2)
    assert positive_groups(torch.tensor([[0.9, 0.1], [-0.9, 0.1], [0.2, 0.3]]), values).tolist() == [1, 0, 1]
    sets = CIAOConfig(problem_type="multi_label_classification", num_labels=2)
    assert positive_groups(torch.tensor([[1.0, 0], [0, 1], [1, 0]]), sets).tolist() == [1, 0, 1]
    classes = CIAOConfig(**CLASSES)
    assert positive_groups(torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1]]), classes).tolist() == [
        1,
        0,
        1,
    ]


@pytest.mark.parametrize(("rows", "processes"), [(8, 3), (5, 2), (4, 1)])
def test_the_shares_of_all_processes_make_the_batch(rows, processes):
    data = cache_features(tiny_backbone(), faces(8))
    source = BatchDataset(data, torch.arange(8))
    plan = [np.arange(rows)[::-1].copy()]
    parts = [next(BatchLoader(source, r, processes, 0, torch.device("cpu")).read(plan, [0])) for r in range(processes)]
    assert torch.cat([part.labels for part in parts]).tolist() == plan[0].tolist()
    assert [len(part.labels) for part in parts] == parts[0].counts == rows_per_process(rows, processes)


# -- what training does -----------------------------------------------------------------------------------------------


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
    rates = {"learning_rate": 0.01, "mask_learning_rate": 0.01}
    trainer = make_trainer(make_model(**changes, dropout=0.0), num_train_epochs=8, max_grad_norm=0, **rates)
    data = faces(30, label_of)
    before = trainer.evaluate(data)["eval_loss"]
    output = trainer.train(data, data)
    assert trainer.evaluate(data)["eval_loss"] < before
    assert output.global_step == 8 * 4
    rates = [entry["learning_rate"] for entry in trainer.log_history if "loss" in entry]
    assert rates == [0.01 * trainer.args.rate_factor(step, 32) for step in range(32)]
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
    assert changed == model.adapters["default"].trainable
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


# -- evaluation, best and end -----------------------------------------------------------------------------------------


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


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(tmp_path):
    data = killed.faces()
    whole = killed.training(tmp_path / "whole")
    whole.train(data, data[:6])
    done = run("killed", "train", tmp_path / "killed")
    assert done.returncode == -signal.SIGKILL
    found = [path.name for path in checkpoint_folders(tmp_path / "killed")]
    assert found == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    resumed = killed.training(tmp_path / "killed", resume=True)
    resumed.train(data, data[:6])
    assert_same(weights(resumed.model), weights(whole.model))
    last = [load_file(tmp_path / name / "checkpoint-9" / "adapter_model.safetensors") for name in ("whole", "killed")]
    assert_same(*last)
    moments = [load_file(tmp_path / name / "checkpoint-9" / "optimizer.safetensors") for name in ("whole", "killed")]
    assert_same(*moments)
    logs = [[e for e in t.log_history if "train_runtime" not in e] for t in (whole, resumed)]
    assert logs[0] == logs[1]
    # A checkpoint is an adapter's folder as well.
    CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "killed" / "checkpoint-4")


class Interrupted(list):
    """Ctrl-C while the eleventh face of the second epoch is read: in the middle of update 5."""

    reads = 0

    def __getitem__(self, index):
        if isinstance(index, int):
            self.reads += 1
            if self.reads == 1 + 22 + 22 + 11:  # a first look, all labels, one epoch
                os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_ctrl_c_waits_for_the_update_saves_it_and_says_where(tmp_path, capsys):
    data = killed.faces()
    changes = {"save_strategy": "no", "save_steps": None, "feature_cache": "never", "class_balanced_batches": False}
    whole = killed.training(tmp_path / "whole", **changes)
    whole.train(data, data[:6])
    handler = signal.getsignal(signal.SIGINT)
    stopped = killed.training(tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after update 5 of 9. Saved '.*checkpoint-5'"):
        stopped.train(Interrupted(data), data[:6])
    assert "checkpoint-5" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = killed.training(tmp_path / "run", resume="auto", **changes)
    resumed.train(data, data[:6])
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    data = killed.faces()
    killed.training(folder).train(data, data[:6])
    return folder


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"learning_rate": 0.5}, None, "'learning_rate' is 0.001 there and 0.5 here"),
        ({"per_device_train_batch_size": 4}, None, "'per_device_train_batch_size' is 8 there and 4 here"),
        ({"num_train_epochs": 9}, None, "'num_train_epochs' is 3.0 there and 9.0 here"),
        ({}, killed.faces(20), "'num_samples' is 22 there and 20 here"),
        ({}, [f | {"labels": (n + 1) % 3} for n, f in enumerate(killed.faces())], "'labels' is"),
    ],
)
def test_training_is_not_resumed_as_something_else(checkpoints, changes, data, message):
    data = killed.faces() if data is None else data
    trainer = killed.training(checkpoints, resume=str(checkpoints / "checkpoint-4"), **changes)
    before = weights(trainer.model)
    with pytest.raises(TrainingError) as caught:
        trainer.train(data, data[:6])
    assert message in str(caught.value)
    assert_same(weights(trainer.model), before)


def test_an_incomplete_or_damaged_checkpoint_is_not_resumed(checkpoints, tmp_path):
    import shutil

    shutil.copytree(checkpoints, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-9" / "trainer_state.json").unlink()
    assert checkpoint_folders(tmp_path / "run")[-1].name == "checkpoint-8"
    data = killed.faces()
    with pytest.raises(TrainingError, match="no complete checkpoint"):
        killed.training(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-9")).train(data, data)
    optimizer = tmp_path / "run" / "checkpoint-8" / "optimizer.safetensors"
    content = bytearray(optimizer.read_bytes())
    content[-1] ^= 1
    optimizer.write_bytes(content)
    with pytest.raises(TrainingError, match=r"checksum.*damaged"):
        killed.training(tmp_path / "run", resume=True).train(data, data)
    with pytest.raises(TrainingError, match=r"There is no complete checkpoint"):
        killed.training(tmp_path / "empty", resume=True).train(data, data)


def test_only_the_newest_checkpoints_are_kept_and_remains_of_a_kill_are_cleared(tmp_path):
    (tmp_path / ".checkpoint-2.tmp").mkdir()
    make_trainer(output_dir=tmp_path, save_strategy="epoch", save_total_limit=2, num_train_epochs=4).train(faces())
    assert sorted(p.name for p in tmp_path.glob("*checkpoint*")) == ["checkpoint-12", "checkpoint-9"]


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "train_dataset is empty"),
        ({"train": faces()}, DataError, "train_dataset is several splits ('train'); give one of them"),
        (iter(faces()), DataError, "cannot be asked for its length"),
        ([{"x": 1}], DataError, "must be a dict with 'image' or 'pixel_values'; it has keys 'x'"),
        ([torch.zeros(3)], DataError, "it has type Tensor"),
        ([{"pixel_values": torch.zeros(SIZE)}] * 4, TrainingError, "train_dataset has no labels"),
        ([{"image": "face.png", "label": 0}], DataError, "give `preprocessing=` to get_ciao_model"),
        (faces(6, lambda n: n), InputError, "The labels of train_dataset: Class ids run from 0 to 2"),
        (faces(6, lambda n: [math.nan] * 3), InputError, "The labels of train_dataset: Labels must be finite"),
        (faces(6, lambda n: float(n % 3)), InputError, "Class ids must be whole numbers"),
        (
            [{"pixel_values": torch.zeros(3, 9, 9), "labels": 0}] * 4,
            InputError,
            "`pixel_values` must be (B, 3, 16, 16)",
        ),
    ],
)
def test_data_that_cannot_be_learned_is_refused_before_anything_changes(data, error, message):
    trainer = make_trainer()
    before = weights(trainer.model)
    with pytest.raises(error) as caught:
        trainer.train(data)
    assert message in str(caught.value)
    assert_same(weights(trainer.model), before)


def test_an_adapter_that_trains_nothing_is_refused():
    trainer = make_trainer()
    trainer.model.adapters["default"].trainable = frozenset()
    with pytest.raises(TrainingError, match="no trainable parameters"):
        trainer.train(faces())


def test_the_trainer_wants_a_model_and_a_known_adapter():
    with pytest.raises(TrainingError, match="must be a CIAOModel"):
        CIAOTrainer(tiny_backbone())
    with pytest.raises(AdapterNotFoundError, match="Loaded adapters: 'default'"):
        CIAOTrainer(make_model(), adapter_name="nobody")
    with pytest.raises(NoActiveAdapterError):
        CIAOTrainer(CIAOModel(tiny_backbone(), input_size=SIZE))


def test_a_class_with_one_sample_is_told_once_and_works():
    with pytest.warns(UserWarning, match="A single training sample each: 'LABEL_2'") as caught:
        make_trainer().train(faces(12, lambda n: 2 if n == 0 else n % 2))
    assert len(caught) == 1


def test_evaluation_settings_need_an_evaluation_dataset():
    with pytest.raises(TrainingError, match="`load_best_model_at_end` needs evaluations: give `train`"):
        make_trainer(load_best_model_at_end=True).train(faces())
    with pytest.raises(TrainingError, match=r"`metric_for_best_model` is 'score'; evaluation gives 'eval_accuracy'"):
        make_trainer(metric_for_best_model="score").train(faces(), faces())


def test_diverged_training_is_told():
    trainer = make_trainer(learning_rate=1e9, optim="sgd", max_grad_norm=0, num_train_epochs=20)
    with pytest.raises(TrainingError, match="training has diverged"):
        trainer.train(faces())


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ConfigError, match="`report_to` names 'nothing_known'"):
        make_trainer(output_dir="unused", report_to="nothing_known")


def test_stored_features_of_another_model_and_for_a_whole_encoder_are_refused():
    stored = cache_features(make_model(), faces())
    with pytest.raises(FeatureCacheError, match=r"not made by this model: backbone differ"):
        make_trainer(make_model(tiny_backbone(seed=1))).train(stored)
    with pytest.raises(TrainingError, match=r"tuning='full'.*give it the pictures"):
        make_trainer(make_model(tuning="full")).train(stored)


def test_a_dataset_with_classes_in_another_order_is_refused():
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=["b", "a"])})
    picture = np.zeros((16, 16, 3), dtype=np.uint8)
    data = Dataset.from_dict({"image": [picture] * 4, "label": [0, 1, 0, 1]}, features=features)
    from ciao_peft import Preprocessing

    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label={0: "a", 1: "b"})
    model = get_ciao_model(tiny_backbone(), config, input_size=SIZE, preprocessing=Preprocessing(size=(16, 16)))
    with pytest.raises(TrainingError, match=r"another order \(b, a\) than the adapter \(a, b\)"):
        make_trainer(model).train(data)


# -- several processes ------------------------------------------------------------------------------------------------


def test_processes_that_do_not_see_one_another_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match=r"ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2"):
        make_trainer()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes left; their exit status says nothing, as an abort at the exit follows finished work."""
    folder = tmp_path_factory.mktemp("together")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run("two_processes", folder, launcher=launcher, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert (folder / "result.json").exists(), done.stderr[-4000:]
    return folder, json.loads((folder / "result.json").read_text()), load_file(folder / "result.safetensors")


def test_two_processes_give_the_gradient_of_one(together):
    _, result, found = together
    assert result["num_processes"] == 2
    data = two_processes.faces(21)[:11]
    model = two_processes.model_of()
    pixels, labels = torch.stack([f["pixel_values"] for f in data]), torch.tensor([f["labels"] for f in data])
    output = model(pixels, labels=labels)
    output.loss.backward()
    assert found["loss"].item() == pytest.approx(output.loss.item(), rel=1e-6)
    for name, parameter in model.adapters["default"].named_parameters():
        mine, theirs = parameter.grad.flatten().double(), found[name].flatten().double()
        assert (theirs.norm() / mine.norm()).item() == pytest.approx(1.0, abs=1e-5), name
        assert torch.nn.functional.cosine_similarity(mine, theirs, dim=0).item() == pytest.approx(1.0, abs=1e-6), name


def test_two_processes_train_the_adapter_of_one(together):
    folder, result, found = together
    data = two_processes.faces(21)
    trainer = CIAOTrainer(two_processes.model_of(), two_processes.arguments(per_device_train_batch_size=8))
    trainer.train(data, data[:7])
    assert result["start"] == trainer.config.decay_init is not None
    for name, tensor in weights(trainer.model).items():
        torch.testing.assert_close(found[f"trained.{name}"], tensor, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["logits"], trainer.predict(data[:7]).logits, rtol=1e-3, atol=1e-3)
    ours = [entry["eval_accuracy"] for entry in trainer.log_history if "eval_accuracy" in entry]
    assert [entry["eval_accuracy"] for entry in result["log"] if "eval_accuracy" in entry] == ours
    assert [path.name for path in checkpoint_folders(folder / "run")] == ["checkpoint-3", "checkpoint-6"]


def test_a_batch_that_leaves_a_process_without_samples_is_refused_by_all_processes(together):
    _, result, _ = together
    message = (
        "With per_device_train_batch_size=1, the 5 samples of train_dataset make batches down to 1, too few for 2 "
        "processes. Set it to 2 or more."
    )
    assert result["refusals"] == [message] * 2


@pytest.mark.parametrize("per_device", [1, 2, 3])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_only_a_batch_of_one_sample_each_can_be_too_small_for_the_processes(per_device, processes):
    for count in range(processes, 40):
        plan = plan_epoch(np.zeros(count, dtype=int), per_device * processes, seed=0, epoch=0)
        smallest = min(map(len, plan))
        assert smallest_batch(count, per_device * processes) == smallest
        assert (smallest < processes) is (per_device == 1 and count % processes > 0)


def test_two_processes_store_the_features_of_one(together):
    _, _, found = together
    expected = cache_features(two_processes.model_of(), two_processes.faces(21))
    for index, tensor in enumerate(expected.tensors):
        torch.testing.assert_close(found[f"stored.{index}"], tensor)


def test_a_new_training_does_not_mix_its_checkpoints_with_an_old_ones(tmp_path):
    make_trainer(output_dir=tmp_path, save_strategy="epoch", num_train_epochs=2).train(faces())
    before = sorted(path.name for path in tmp_path.iterdir())
    again = make_trainer(output_dir=tmp_path, save_strategy="epoch", num_train_epochs=1)
    with pytest.raises(
        TrainingError, match=r"holds checkpoint-\d+ of an earlier training.*resume_from_checkpoint=True"
    ):
        again.train(faces())
    assert sorted(path.name for path in tmp_path.iterdir()) == before
