"""The temperature of an adapter for which nothing was held out: by answers of others, each trained without a part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainer, CIAOTrainingArguments, cache_features, get_ciao_model
from ciao_peft.data import subject_folds
from ciao_peft.errors import ConfigError, DataError
from ciao_peft.probabilities import fit_temperature
from helpers.fakes import SIZE, tiny_backbone
from helpers.training import BALANCED

FOLDS = [("fold 1", np.arange(24) % 3 == 0), ("fold 2", np.arange(24) % 3 == 1), ("fold 3", np.arange(24) % 3 == 2)]
SETTINGS = BALANCED | {
    "num_train_epochs": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "report_to": "none",
}


def faces() -> list[dict[str, object]]:
    """Two classes that differ in brightness; a fifth of the labels is wrong."""
    generator = torch.Generator().manual_seed(0)
    rows = [(torch.rand(*SIZE, generator=generator) / 2 + n % 2 / 2, n % 2) for n in range(24)]
    return [{"pixel_values": x, "labels": 1 - y if n % 5 == 0 else y} for n, (x, y) in enumerate(rows)]


def made(**settings: object) -> CIAOModel:
    config = {"problem_type": "single_label_classification", "num_labels": 2, **settings}
    return get_ciao_model(tiny_backbone(), CIAOConfig(**config), "mood", input_size=SIZE)


def trainer_of(model: CIAOModel, **settings: object) -> CIAOTrainer:
    return CIAOTrainer(model, CIAOTrainingArguments(**{**SETTINGS, **settings}))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("settings", [{}, {"tuning": "last_conv"}], ids=str)
def test_every_fold_is_answered_by_an_adapter_trained_without_it(stored, settings):
    model = made(**settings)
    trainer, samples = trainer_of(model), faces()
    data = cache_features(model, samples) if stored else samples
    trainer.train(data)
    before = {name: value.clone() for name, value in model.adapters["mood"].state_dict().items()}
    logits = trainer._cross_fitted_logits(data, FOLDS)

    assert list(model.adapters) == ["mood"] and model.active_adapter == "mood"
    assert all(torch.equal(value, before[name]) for name, value in model.adapters["mood"].state_dict().items())
    for _, held_out in FOLDS:
        alone = made(**settings, decay_init=model.peft_config["mood"].decay_init)
        single = trainer_of(alone)
        single.train([sample for sample, out in zip(samples, held_out, strict=True) if not out])
        expected = single.predict([sample for sample, out in zip(samples, held_out, strict=True) if out]).logits
        assert torch.allclose(logits[torch.from_numpy(held_out)], expected, atol=1e-4)


def test_the_temperature_is_that_of_these_answers_and_above_the_one_of_the_training():
    model, samples = made(contrastive_weight=0.0), faces()
    trainer = trainer_of(model, num_train_epochs=12)
    trainer.train(samples)
    scores = dict(trainer.training_record())
    config, labels = model.peft_config["mood"], torch.tensor([sample["labels"] for sample in samples])
    expected = fit_temperature(trainer._cross_fitted_logits(samples, FOLDS), labels, config)
    found = trainer.calibrate(samples, FOLDS)
    assert found == expected == model.peft_config["mood"].probability_temperature
    assert trainer.training_record() == scores  # no score of others is noted as one of this adapter
    assert found > trainer.calibrate(samples)  # its own training samples make it surer than it should be


def test_people_are_dealt_to_folds():
    from datasets import Dataset

    people = Dataset.from_dict({"identity": [f"S{n % 6}" for n in range(24)]})
    model = made()
    trainer = trainer_of(model, num_train_epochs=1)
    trainer.train(faces())
    assert 0.01 <= trainer.calibrate(faces(), subject_folds(people, 3)) <= 100


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([], r"there are 0, and"),
        (FOLDS[:1], r"there are 1, and 16 samples in none"),
        ([*FOLDS, FOLDS[0]], r"there are 4, and 8 samples in none or in several"),
        ([("a", np.zeros(3, bool)), ("b", np.ones(3, bool))], r"Fold 'a' must say of each of 24 samples"),
        ([("a", np.arange(12)), ("b", np.arange(12, 24))], r"Fold 'a' must say of each .* int64 \(12,\)"),
    ],
)
def test_folds_that_are_none_are_refused(folds, message):
    model = made()
    trainer = trainer_of(model)
    with pytest.raises(DataError, match=message):
        trainer.calibrate(faces(), folds)
    assert list(model.adapters) == ["mood"] and model.peft_config["mood"].probability_temperature == 1


def test_values_are_refused_before_anything_is_trained():
    values = CIAOConfig(problem_type="regression", num_labels=1)
    model = get_ciao_model(tiny_backbone(), values, input_size=SIZE)
    samples = [{**sample, "labels": [float(sample["labels"])]} for sample in faces()]
    with pytest.raises(ConfigError, match="no probability, and no temperature"):
        trainer_of(model).calibrate(samples, FOLDS)


def test_what_is_interrupted_leaves_the_model_as_it_was():
    class Stops(CIAOTrainer):
        def predict(self, dataset):
            raise KeyboardInterrupt

    model = made()
    trainer = Stops(model, CIAOTrainingArguments(**{**SETTINGS, "num_train_epochs": 1}))
    trainer.train(faces())
    with pytest.raises(KeyboardInterrupt):
        trainer.calibrate(faces(), FOLDS)
    assert list(model.adapters) == ["mood"] and model.active_adapter == "mood"
    assert model.peft_config["mood"].probability_temperature == 1


def test_a_temperature_that_says_nothing_is_told():
    model, samples = made(), faces()
    trainer = trainer_of(model)
    trainer.train(samples)
    right = [{**sample, "labels": int(trainer.predict([sample]).logits.argmax())} for sample in samples[:6]]
    with pytest.warns(UserWarning, match="do not tell how sure it may be"):
        trainer.calibrate(right)  # of which none is wrong: the surer the better
