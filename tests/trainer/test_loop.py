"""One training from its first update to its last: what does not disturb it, and what is the best."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import DivergenceError
from helpers.training import assert_same, faces, make_model, make_trainer, scripted, weights

BY_SCORE = {"per_device_train_batch_size": 12, "metric_for_best_model": "score"}


class BrokenOnce(list):
    """Cannot be read at its last face, the first time; in the middle of an update of several micro-batches."""

    broken = True

    def __getitem__(self, index):
        if index == 23 and self.broken:
            self.broken = False
            raise OSError("a disk that comes back")
        return super().__getitem__(index)


def test_gradients_that_are_there_before_are_no_part_of_the_first_update():
    results = []
    for disturbed in (False, True):
        trainer = make_trainer(num_train_epochs=1)
        if disturbed:
            pixels = torch.stack([face["pixel_values"] for face in faces()])
            trainer.model(pixels, labels=torch.arange(24) % 3).loss.backward()
        trainer.train(faces())
        results.append(weights(trainer.model))
    assert_same(*results)


def test_a_training_that_broke_off_between_micro_batches_leaves_nothing_to_the_next():
    settings = {"feature_cache": "never", "gradient_accumulation_steps": 24, "num_train_epochs": 1}
    settings |= {"per_device_train_batch_size": 1, "class_balanced_batches": False}
    undisturbed = make_trainer(make_model(decay_init=1.0), **settings)
    undisturbed.train(faces())
    data = BrokenOnce(faces())
    data.labels = torch.arange(24) % 3
    trainer = make_trainer(make_model(decay_init=1.0), **settings)
    with pytest.raises(OSError, match="a disk that comes back"):
        trainer.train(data)
    assert any(parameter.grad is not None for parameter in trainer.model.parameters())
    trainer.train(data)
    assert_same(weights(trainer.model), weights(undisturbed.model))


def test_a_trainer_keeps_its_precision_when_one_with_another_is_made(tmp_path):
    settings = {"num_train_epochs": 1, "save_strategy": "epoch"}
    expected = {}
    for name, bf16 in (("whole", False), ("half", True)):
        alone = make_trainer(bf16=bf16, **settings, output_dir=tmp_path / f"alone in {name}")
        alone.train(faces())
        expected[name] = weights(alone.model), alone.predict(faces()).logits
    assert not torch.equal(expected["whole"][1], expected["half"][1])
    trainers = {n: make_trainer(bf16=n == "half", **settings, output_dir=tmp_path / n) for n in ("whole", "half")}
    trainers["half"].on_log = lambda entry: trainers["whole"].evaluate(faces(3))  # in the middle of the training
    trainers["whole"].on_log = lambda entry: trainers["half"].evaluate(faces(3))
    for trainer in trainers.values():
        trainer.train(faces())
    for name, trainer in trainers.items():
        assert_same(weights(trainer.model), expected[name][0])
        assert torch.equal(trainer.predict(faces()).logits, expected[name][1])
        state = json.loads((tmp_path / name / "checkpoint-3" / "trainer_state.json").read_text())
        assert state["record"]["precision"] == {"whole": "no", "half": "bf16"}[name]


@pytest.mark.parametrize("not_finite", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("greater", "scores", "best"), [(True, [2, 3, 1], 3), (False, [2, 1, 3], 1)])
def test_a_score_that_is_not_finite_is_never_the_best_and_checkpoints_are_written(
    not_finite, greater, scores, best, tmp_path
):
    settings = {"num_train_epochs": 5, "output_dir": tmp_path, "save_strategy": "epoch", "greater_is_better": greater}
    arguments = CIAOTrainingArguments(load_best_model_at_end=True, **BY_SCORE | settings)
    found = [not_finite, scores[0], not_finite, *scores[1:]]
    trainer = CIAOTrainer(make_model(), arguments, compute_metrics=scripted(found))
    output = trainer.train(faces(), faces(6))
    assert (output.metrics["best_score"], output.metrics["best_step"]) == (best, 2 * (1 + found.index(best)))
    states = [json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text()) for step in (2, 10)]
    assert states[0]["best"] is None and states[1]["best"]["metric"] == best


def test_scores_that_are_not_finite_stop_early():
    arguments = CIAOTrainingArguments(num_train_epochs=9, early_stopping_patience=2, **BY_SCORE)
    trainer = CIAOTrainer(make_model(), arguments, compute_metrics=scripted([math.nan, math.nan, 9.0]))
    assert trainer.train(faces(), faces(6)).global_step == 2 * 2


@pytest.mark.parametrize("name", ["error", "mean_absolute_error", "eval_error", "my_loss", "rmse"])
def test_an_error_is_better_when_it_is_smaller(name):
    scores = iter([3.0, 1.0, 2.0])
    arguments = CIAOTrainingArguments(num_train_epochs=3, **BY_SCORE | {"metric_for_best_model": name})
    bare = name.removeprefix("eval_")
    trainer = CIAOTrainer(make_model(), arguments, compute_metrics=lambda logits, labels: {bare: next(scores)})
    assert trainer.train(faces(), faces(6)).metrics[f"best_{bare}"] == 1.0


@pytest.mark.parametrize("changes", [{"save_strategy": "epoch"}, {"load_best_model_at_end": True}])
def test_a_diverged_adapter_is_not_saved(changes, tmp_path):
    rates = {"learning_rate": 1e9, "optim": "sgd", "max_grad_norm": 0}
    trainer = make_trainer(
        output_dir=tmp_path, logging_steps=99, metric_for_best_model="score", num_train_epochs=20, **rates, **changes
    )
    trainer.compute_metrics = scripted(range(20))
    with pytest.raises(DivergenceError, match=r"At update \d+ the adapter or its loss holds NaN .* nothing was saved"):
        trainer.train(faces(), faces(6))
