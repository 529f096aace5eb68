"""The mean of the weights over the last updates: what it is, who sees it, and what survives a kill."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.saving.digest import sha256_of, with_digest
from ciao_peft.trainer import AdapterJob, train_adapters
from ciao_peft.trainer.checkpoint import AVERAGE_FILE, STATE_FILE
from helpers.fakes import tiny_backbone
from helpers.training import BALANCED, assert_same, faces, make_model, make_trainer, scripted, weights


def weights_after_each_update(**changes):
    """Those of a training without averaging; float64, so that a mean of them is exact enough to compare with."""
    model, after = make_model(), []

    def note(entry):
        if "learning_rate" in entry:  # of the losses' entry, one for each update
            after.append({name: tensor.double() for name, tensor in weights(model).items()})

    settings = BALANCED | {"num_train_epochs": 3, "per_device_train_batch_size": 8, "logging_steps": 1}
    CIAOTrainer(model, CIAOTrainingArguments(**settings | changes), on_log=note).train(faces())
    return after


@pytest.mark.parametrize(("share", "count"), [(0.3, 3), (1 / 9, 1), (1.0, 9), (0.01, 1)])
def test_the_result_is_the_mean_over_the_last_updates(share, count):
    after = weights_after_each_update()
    assert len(after) == 9 and count == math.ceil(share * 9)
    trainer = make_trainer(num_train_epochs=3, average_last=share)
    trainer.train(faces())
    for name, tensor in weights(trainer.model).items():
        mean = torch.stack([each[name] for each in after[-count:]]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6, msg=name)


def test_the_course_of_the_training_itself_stays_as_it_was():
    plain, averaged = make_trainer(num_train_epochs=3), make_trainer(num_train_epochs=3, average_last=0.5)
    pictures = faces()
    plain.train(pictures, pictures)
    averaged.train(pictures, pictures)
    one, other = ([e["loss"] for e in t.log_history if "learning_rate" in e] for t in (plain, averaged))
    assert one == other
    assert not all(map(torch.equal, weights(plain.model).values(), weights(averaged.model).values()))


def test_evaluations_at_the_end_are_of_what_comes_out():
    trainer, pictures = make_trainer(num_train_epochs=3, average_last=0.5), faces()
    trainer.train(pictures, faces(12, seed=3))
    last = [entry for entry in trainer.log_history if "eval_loss" in entry][-1]
    assert trainer.evaluate(faces(12, seed=3))["eval_loss"] == pytest.approx(last["eval_loss"], abs=1e-7)
    assert trainer.training_record()["eval_loss"] == last["eval_loss"]


def test_running_statistics_are_averaged_and_whole_numbers_are_the_last_ones():
    settings = {"tuning": "last_conv", "train_batch_norm": True}
    trainer = make_trainer(make_model(tiny_backbone(), **settings), num_train_epochs=3, average_last=0.5)
    trainer.train(faces())
    assert all(tensor.isfinite().all() for tensor in weights(trainer.model).values())


@pytest.mark.parametrize("scores", [(1, 2, 3, 9), (1, 9, 3, 4)])
def test_the_best_adapter_is_the_one_that_was_scored(scores, tmp_path):
    """Two updates in each of four epochs; the mean begins with the second half."""
    seen = []
    settings = BALANCED | {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 12,
        "average_last": 0.5,
        "output_dir": tmp_path,
    }
    settings |= {"metric_for_best_model": "score", "load_best_model_at_end": True, "logging_steps": 1}
    model = make_model()

    def note(entry):
        if "eval_score" in entry:
            seen.append(weights(model))

    arguments = CIAOTrainingArguments(**settings)
    CIAOTrainer(model, arguments, compute_metrics=scripted(scores), on_log=note).train(faces(), faces(6))
    best = seen[scores.index(9)]
    assert_same(best, weights(model))
    saved = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "best")
    assert_same(best, weights(saved, "best"))
    after = weights_after_each_update(num_train_epochs=4, per_device_train_batch_size=12)
    own = after[3:4] if scores[1] == 9 else after[4:]  # the second epoch's own weights, or the mean over the last two
    for name, tensor in best.items():
        mean = torch.stack([each[name] for each in own]).mean(dim=0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6, msg=name)


def test_a_training_that_stops_early_ends_with_the_mean_so_far_or_without_one():
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 12, "early_stopping_patience": 1}
    settings |= {"metric_for_best_model": "score", "logging_steps": 1}
    results = {}
    for share in (0.0, 0.25, 1.0):
        trainer = CIAOTrainer(
            make_model(),
            CIAOTrainingArguments(**settings, average_last=share),
            compute_metrics=scripted((5, 4)),
        )
        assert trainer.train(faces(), faces(6)).global_step == 4
        results[share] = weights(trainer.model)
    assert_same(results[0.0], results[0.25])  # whose mean would have begun with the seventh update
    assert not all(map(torch.equal, results[0.0].values(), results[1.0].values()))


# -- checkpoints ------------------------------------------------------------------------------------------------------


def saving(folder, **changes):
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 12, "save_strategy": "steps", "save_steps": 1}
    settings |= {"average_last": 0.5, "output_dir": folder, "logging_steps": 1}
    return make_trainer(**settings | changes)


def resuming(folder, **changes):
    """A training that goes on from a checkpoint, and saves nothing."""
    return saving(None, save_strategy="no", save_steps=None, resume_from_checkpoint=str(folder), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    trainer = saving(folder)
    trainer.train(faces())
    return folder, weights(trainer.model)


@pytest.mark.parametrize("step", [3, 4, 5, 7, 8])
def test_a_resumed_training_has_the_same_mean_to_the_bit(step, whole):
    folder, result = whole
    assert (folder / f"checkpoint-{step}" / AVERAGE_FILE).is_file() == (step > 4)
    resumed = resuming(folder / f"checkpoint-{step}")
    resumed.train(faces())
    assert_same(result, weights(resumed.model))


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_resumed_training_returns_to_the_best_mean(step, tmp_path):
    def training(folder, scores, **changes):
        best = {
            "metric_for_best_model": "score",
            "load_best_model_at_end": True,
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
        trainer = saving(folder, **best | changes)
        trainer.compute_metrics = scripted(scores)
        return trainer

    scores = (1, 2, 3, 4, 5, 9, 6, 7)
    one = training(tmp_path, scores)
    one.train(faces(), faces(6))
    rest = {"save_strategy": "no", "save_steps": None, "resume_from_checkpoint": str(tmp_path / f"checkpoint-{step}")}
    other = training(None, scores[step:], **rest)
    other.train(faces(), faces(6))
    assert_same(weights(one.model), weights(other.model))


def altered(folder, target, change):
    """A copy of a checkpoint whose mean was changed by somebody who knows the digests."""
    import shutil

    shutil.copytree(folder, target)
    tensors = load_file(target / AVERAGE_FILE)
    change(tensors)
    save_file(tensors, target / AVERAGE_FILE)
    state = json.loads((target / STATE_FILE).read_text())
    state.pop("digest")
    state["files"][AVERAGE_FILE] = sha256_of((target / AVERAGE_FILE).read_bytes())
    (target / STATE_FILE).write_bytes(with_digest(state, state["files"]))
    return target


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("head.0.bias"),
        lambda tensors: tensors.update(more=torch.ones(1)),
        lambda tensors: tensors.update({"head.0.bias": torch.ones(3)}),
        lambda tensors: tensors.update({"head.0.bias": tensors["head.0.bias"].double()}),
        lambda tensors: tensors["head.0.bias"].fill_(math.nan),
    ],
    ids=["missing", "more", "shape", "dtype", "NaN"],
)
def test_a_damaged_mean_is_refused_and_the_adapter_stays(change, whole, tmp_path):
    assert "head.0.bias" in load_file(whole[0] / "checkpoint-7" / AVERAGE_FILE)
    folder = altered(whole[0] / "checkpoint-7", tmp_path / "checkpoint-7", change)
    trainer = resuming(folder)
    before = weights(trainer.model)
    with pytest.raises(TrainingError, match=r"averaged weights in .* are not those of this training"):
        trainer.train(faces())
    assert_same(before, weights(trainer.model))


def test_a_resumed_training_must_average_as_before(whole):
    folder = whole[0] / "checkpoint-7"
    trainer = resuming(folder, average_last=0.4)
    with pytest.raises(TrainingError, match=r"'average_last' is 0\.5 there and 0\.4 here"):
        trainer.train(faces())


# -- elsewhere --------------------------------------------------------------------------------------------------------


def test_among_many_trainings_one_that_averages_comes_out_as_by_itself():
    alone = make_trainer(average_last=0.5)
    alone.train(faces())
    model = make_model()
    model.add_adapter("two", model.adapters["default"].config)
    arguments = {"default": dataclasses.replace(alone.args, average_last=0.0), "two": alone.args}
    jobs = [AdapterJob(adapter_name=name, args=own) for name, own in arguments.items()]
    train_adapters(model, jobs, faces())
    for name, tensor in weights(alone.model).items():
        torch.testing.assert_close(weights(model, "two")[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("value", [-0.1, 1.1, "half", math.nan])
def test_a_share_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="`average_last` must be a number from 0 to 1"):
        CIAOTrainingArguments(average_last=value)
