"""After a divergence the adapter in memory is whole: the best one, or the last that was finite."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import DivergenceError
from helpers.training import BALANCED, assert_same, faces, make_model, scripted, weights

SETTINGS = BALANCED | {"num_train_epochs": 6, "per_device_train_batch_size": 8, "logging_steps": 1, "report_to": "none"}


def poisoned_at(step, model, kept):
    """Writes NaN into the adapter as the log of an update comes in, and notes the adapter of each update before."""

    def on_log(entry):
        if "loss" not in entry:
            return
        kept[entry["step"]] = weights(model)
        if entry["step"] == step:
            with torch.no_grad():
                next(model.adapters["default"].parameters()).fill_(float("nan"))

    return on_log


def test_the_last_finite_adapter_is_put_back():
    model, kept = make_model(), {}
    trainer = CIAOTrainer(model, CIAOTrainingArguments(**SETTINGS), on_log=poisoned_at(8, model, kept))
    with pytest.raises(DivergenceError, match=r"in memory is the last finite one that was kept, of update 6\."):
        trainer.train(faces())  # three updates make an epoch
    assert_same(weights(model), kept[6])


def test_without_a_whole_epoch_it_is_the_one_that_training_began_with():
    model, kept = make_model(decay_init=1.0), {}
    before = weights(model)
    trainer = CIAOTrainer(model, CIAOTrainingArguments(**SETTINGS), on_log=poisoned_at(2, model, kept))
    with pytest.raises(DivergenceError, match="as it was before the first update"):
        trainer.train(faces())
    assert_same(weights(model), before)


def test_the_best_adapter_goes_before_the_last():
    model, kept = make_model(), {}
    args = CIAOTrainingArguments(
        **SETTINGS, load_best_model_at_end=True, eval_strategy="epoch", metric_for_best_model="score"
    )
    trainer = CIAOTrainer(
        model,
        args,
        compute_metrics=scripted([0.9, 0.2, 0.1, 0.1, 0.1, 0.1]),
        on_log=poisoned_at(8, model, kept),
    )
    with pytest.raises(DivergenceError, match=r"in memory is the best one, of update 3\."):
        trainer.train(faces(), faces(6, seed=1))
    assert_same(weights(model), kept[3])
