"""What a training does about settings that are left out: the recipe for its data, and nothing that was said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from ciao_peft import AdapterJob, CIAOTrainer, CIAOTrainingArguments, cache_features, train_adapters
from ciao_peft.errors import ConfigError
from ciao_peft.features import Augmentation
from ciao_peft.trainer import RECIPES, recipe_for
from ciao_peft.trainer.course import batch_size_of, count_updates
from helpers.training import assert_same, faces, make_model, weights

LEFT_OUT = ("num_train_epochs", "per_device_train_batch_size", "views")
QUIET: dict[str, Any] = {"report_to": "none", "disable_tqdm": True}
SHORT: dict[str, Any] = {**QUIET, "max_steps": 4}


class Shifting(Dataset[dict[str, Any]]):
    """Pictures that look different each time."""

    def __init__(self, count: int = 24):
        self.rows = faces(count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        face = self.rows[index]
        return face | {"pixel_values": face["pixel_values"] + torch.rand(1)}


def trained(args: CIAOTrainingArguments, data: Any = None, **changes: Any) -> CIAOTrainer:
    trainer = CIAOTrainer(make_model(**changes), args)
    trainer.train(faces() if data is None else data)
    return trainer


def chosen(trainer: CIAOTrainer) -> tuple[Any, ...]:
    settings = trainer.training_record()["arguments"]
    return tuple(settings[name] for name in LEFT_OUT)


@pytest.mark.parametrize("count", [1, 190, 1_999, 2_000, 8_343])
def test_settings_that_are_left_out_are_the_recipe_for_so_many_samples(count):
    recipe = CIAOTrainingArguments.recipe(recipe_for(count))
    settings = CIAOTrainingArguments().completed(count)
    about = ("mask_learning_rate", "encoder_learning_rate")  # which follow `learning_rate`
    for name, value in settings.to_dict().items():
        assert name in about or value == recipe.to_dict()[name], name
    rates, of_recipe = (own.learning_rates("decision_layer") for own in (settings, recipe))
    assert (rates["head"], rates["mask"]) == (of_recipe["head"], of_recipe["mask"])
    assert settings.completed(5_000) == settings  # nothing is left out any more


@pytest.mark.parametrize("form", ["rescaled", "divisive", "gain", "additive", "subtractive"])
def test_the_rate_of_the_mask_is_the_recipes_for_every_form(form):
    config = make_model(inhibition_form=form, excitation_rank=0).peft_config["default"]
    recipe = CIAOTrainingArguments.recipe("default", config)
    assert CIAOTrainingArguments().learning_rates("decision_layer", form)["mask"] == recipe.mask_learning_rate
    trainer = trained(CIAOTrainingArguments(**SHORT, logging_steps=1), inhibition_form=form, excitation_rank=0)
    peak = max(entry["mask_learning_rate"] for entry in trainer.log_history if "mask_learning_rate" in entry)
    assert peak == pytest.approx(recipe.mask_learning_rate)


def test_what_was_said_stays_and_no_setting_of_the_trainer_changes():
    args = CIAOTrainingArguments(**QUIET, num_train_epochs=2, views=1)
    trainer = trained(args)
    assert chosen(trainer) == (2.0, RECIPES["small-data"]["per_device_train_batch_size"], 1)
    assert trainer.args is args and args.per_device_train_batch_size is None


def test_a_default_training_is_the_recipe_to_the_bit():
    one = trained(CIAOTrainingArguments(**QUIET))
    other = trained(CIAOTrainingArguments.recipe("small-data", **QUIET))
    assert chosen(one) == chosen(other) == (60.0, 32, 2)
    assert_same(weights(one.model), weights(other.model))


@pytest.mark.parametrize(
    ("make", "views"),
    [
        (faces, 2),
        (Shifting, 1),
        (lambda: cache_features(make_model(), faces()), 1),
        (lambda: cache_features(make_model(), faces(), views=3, augment=Augmentation.of_views(3)), 3),
    ],
    ids=["pictures", "pictures that change", "stored as they are", "three stored views"],
)
@pytest.mark.parametrize("cache", ["auto", "never"])
def test_pictures_are_mirrored_unless_they_change_and_stored_ones_have_their_views(
    make: Callable[[], Any], views: int, cache: str
):
    trainer = trained(CIAOTrainingArguments(**SHORT, feature_cache=cache), make())
    assert chosen(trainer)[2] == views


def test_trainings_at_once_choose_as_one_does(monkeypatch):
    monkeypatch.setattr("ciao_peft.trainer.many.training.is_stacked_on", lambda device: True)
    model = make_model()
    model.add_adapter("two", model.peft_config["default"])
    jobs = [
        AdapterJob(adapter_name=name, args=CIAOTrainingArguments(**SHORT, seed=seed))
        for name, seed in (("default", 1), ("two", 2))
    ]
    results = train_adapters(model, jobs, faces())
    for job in jobs:
        alone = trained(job.args)
        together = results[job.adapter_name].trainer
        assert chosen(together) == chosen(alone) == (60.0, 32, 2)
        for name, tensor in weights(alone.model).items():
            torch.testing.assert_close(weights(model, job.adapter_name)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_the_start_of_a_training_is_told_with_its_views(capsys):
    for args, said in (
        (
            CIAOTrainingArguments(max_steps=2),
            "2 updates of batches of 32, each sample as it is and mirrored",
        ),
        (CIAOTrainingArguments(num_train_epochs=1, views=1), "1 epoch of batches of 32\n"),
        (CIAOTrainingArguments(max_steps=2, views=3), "2 updates of batches of 32, each sample in 3 views"),
    ):
        trained(args)
        assert f"default: 24 samples, {said}" in capsys.readouterr().err


def test_what_needs_completed_settings_says_so():
    with pytest.raises(ConfigError, match=r"`per_device_train_batch_size` was left out; `arguments\.completed"):
        batch_size_of(CIAOTrainingArguments())
    with pytest.raises(ConfigError, match="`num_train_epochs` was left out"):
        count_updates(CIAOTrainingArguments(per_device_train_batch_size=4), 10)
