"""What cannot be trained is refused before anything changes."""

from __future__ import annotations

import math

import pytest
import torch

from ciao_peft import CIAOModel, CIAOTrainer, cache_features
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
from helpers.fakes import SIZE, tiny_backbone
from helpers.training import assert_same, faces, make_model, make_trainer, weights


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


def test_processes_that_do_not_see_one_another_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match=r"ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2"):
        make_trainer()
