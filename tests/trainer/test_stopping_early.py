"""Stopping early costs nothing: no pass of the trunk, no draw of a random number, and no adapter that was better."""

from __future__ import annotations

import pytest

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from helpers.features import counting
from helpers.training import assert_same, faces, make_model, scripted, weights

SCORES = (1, 3, 5, 4, 2, 9, 8, 7)  # of which the third is the best when two in a row were worse


def trained(pictures, scores=SCORES, seen=None, **changes):
    """Two updates in each epoch, with dropout and two views of each picture."""
    model = make_model()

    def note(entry):
        if seen is not None and "eval_score" in entry:
            seen.append(weights(model))

    settings = {"num_train_epochs": 8, "per_device_train_batch_size": 12, "logging_steps": 1, "views": 2}
    settings |= {"metric_for_best_model": "score", "report_to": "none"}
    arguments = CIAOTrainingArguments(**settings | changes)
    trainer = CIAOTrainer(model, arguments, compute_metrics=scripted(scores), on_log=note)
    output = trainer.train(*pictures)
    return weights(model), output.global_step


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_it_ends_with_the_best_adapter_of_the_course_that_the_whole_training_takes(average):
    course = []
    trained((faces(), faces(6)), seen=course, average_last=average)
    stopped, step = trained(
        (faces(), faces(6)), average_last=average, load_best_model_at_end=True, early_stopping_patience=2
    )
    assert step == 10  # after the fifth epoch
    assert_same(stopped, course[2])


def test_evaluations_change_no_bit_of_what_is_learned():
    without, _ = trained((faces(),), eval_strategy="no")
    with_them, _ = trained((faces(), faces(6)))
    assert_same(without, with_them)


def test_the_trunk_reads_each_picture_once_for_all_evaluations(monkeypatch):
    rows = counting(monkeypatch)
    trained((faces(), faces(6)), load_best_model_at_end=True, early_stopping_patience=2)
    assert sum(rows) == 2 * 24 + 6  # two views to learn from, and those to be scored on as they are
