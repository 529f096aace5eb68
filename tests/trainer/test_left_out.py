"""What a training does about settings that are left out: the recipe for its data, and nothing that was said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from ciao_peft import AdapterJob, CIAOTrainer, CIAOTrainingArguments, cache_features, train_adapters
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.features import Augmentation, FeatureDataset
from ciao_peft.study.baselines import build_baseline, fit
from ciao_peft.trainer import RECIPES, TrainingLoop, recipe_for
from ciao_peft.trainer.course import batch_size_of, count_updates
from helpers.fakes import tiny_backbone
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


def stored_mirrored(pictures: Any) -> FeatureDataset:
    return cache_features(make_model(), pictures, views=2, augment=Augmentation.of_views(2), include_excitation=True)


def trained(args: CIAOTrainingArguments, data: Any = None, **changes: Any) -> CIAOTrainer:
    trainer = CIAOTrainer(make_model(**changes), args)
    trainer.train(faces() if data is None else data)
    return trainer


def chosen(trainer: CIAOTrainer) -> tuple[Any, ...]:
    settings = trainer.training_record()["arguments"]
    return tuple(settings[name] for name in LEFT_OUT)


@pytest.mark.parametrize(("count", "views"), [(-1, 2), ("x", 2), (10, None), (10, 0), (True, 2)])
def test_what_is_no_number_of_samples_or_views_is_refused(count, views):
    with pytest.raises(ConfigError, match=r"`num_samples`|`views`"):
        CIAOTrainingArguments().completed(count, views)


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


@pytest.mark.parametrize("form", ["rescaled", "additive", "subtractive"])
def test_a_rate_that_is_left_out_means_what_it_meant_when_checkpoints_and_studies_left_it_out(form):
    trainer = trained(CIAOTrainingArguments(**SHORT, logging_steps=1), inhibition_form=form, excitation_rank=0)
    peak = max(entry["mask_learning_rate"] for entry in trainer.log_history if "mask_learning_rate" in entry)
    assert peak == pytest.approx(1e-2)


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


def test_one_view_of_stored_features_is_the_picture_as_it_is(capsys):
    pictures = faces()
    plain = trained(CIAOTrainingArguments(**SHORT, views=1), pictures)
    given = trained(CIAOTrainingArguments(**SHORT, views=1), stored_mirrored(pictures))
    assert chosen(given)[2] == chosen(plain)[2] == 1
    assert_same(weights(plain.model), weights(given.model))
    capsys.readouterr()
    trained(CIAOTrainingArguments(max_steps=1, views=1), stored_mirrored(pictures))
    assert "mirrored" not in capsys.readouterr().err


def test_a_dataset_that_was_stored_in_two_views_is_stored_anew_for_a_training_with_one():
    pictures = faces()
    trainer = CIAOTrainer(make_model(), CIAOTrainingArguments(**SHORT))
    trainer.train(pictures)
    trainer.args = dataclasses.replace(trainer.args, views=1)
    source = trainer._source(pictures, "train_dataset", True, views=1)
    assert source.views == source.data.views == 1
    assert trainer._source(pictures, "eval_dataset", True).data.views in (1, 2)


def test_a_training_that_is_refused_leaves_the_record_of_the_one_before(tmp_path):
    settings = {**QUIET, "max_steps": 2, "output_dir": str(tmp_path), "save_strategy": "epoch"}
    trainer = trained(CIAOTrainingArguments(**settings))
    before = trainer.training_record()
    with pytest.raises(TrainingError, match="checkpoint"):
        trainer.train(faces() * 100)
    assert trainer.training_record() == before and chosen(trainer) == (60.0, 32, 2)


def test_a_training_that_is_broken_off_is_not_told_with_numbers_of_the_one_before():
    class Stops:
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer = trained(CIAOTrainingArguments(**SHORT))
    trainer.callbacks = [Stops()]
    with pytest.raises(KeyboardInterrupt):
        trainer.train(faces() * 100)
    assert chosen(trainer) == (12.0, 128, 2)
    assert not {"global_step", "train_loss"} & set(trainer.training_record())


@pytest.mark.parametrize("stored", [False, True])
def test_pictures_without_labels_have_views_of_their_own(stored):
    labelled, other = (
        (stored_mirrored(faces()), cache_features(make_model(), faces(30, seed=3), include_excitation=True))
        if stored
        else (
            faces(),
            Shifting(30),
        )
    )
    trainer = CIAOTrainer(make_model(), CIAOTrainingArguments(**SHORT, feature_cache="auto" if stored else "never"))
    trainer.train(labelled, unlabelled=other)
    assert chosen(trainer)[2] == 2


@pytest.mark.parametrize(("data", "views"), [(faces(), 2), (Shifting(), 1)], ids=["pictures", "pictures that change"])
def test_a_baseline_sees_as_many_views_as_an_adapter(data, views, monkeypatch):
    seen = []
    run = TrainingLoop.run
    monkeypatch.setattr(TrainingLoop, "run", lambda loop: (seen.append(loop.source.views), run(loop))[1])
    config = dataclasses.replace(make_model().peft_config["default"], excitation_rank=0, contrastive_weight=0.0)
    fit(build_baseline("residual_adapters", tiny_backbone(), config), data, CIAOTrainingArguments(**SHORT))
    assert set(seen) == {views}


def test_whether_pictures_change_does_not_depend_on_the_global_random_state():
    class Seldom(Shifting):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return super().__getitem__(index) if torch.rand(1) < 0.01 else self.rows[index]

    found = set()
    for seed in range(6):
        torch.manual_seed(seed)
        found.add(chosen(trained(CIAOTrainingArguments(**QUIET, max_steps=1, feature_cache="never"), Seldom()))[2])
    assert len(found) == 1


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
        assert together.args == job.args  # for its next training, on other data
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
