"""Recipes by name, and the views of pictures that they ask for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, cache_features
from ciao_peft.cli.arguments import LateParser, add_recipe, settings_from, settings_parser
from ciao_peft.errors import ConfigError, TrainingError
from ciao_peft.trainer import AdapterJob, train_adapters
from ciao_peft.trainer.loader import BatchDataset, Order
from ciao_peft.trainer.recipes import RECIPES
from helpers.training import CLASSES, assert_same, faces, make_model, make_trainer, weights

# Those that decide nothing about the weights, or that a training has by what it is trained on.
NOT_OF_A_RECIPE = {"seed", "bf16", "fp16", "load_best_model_at_end", "early_stopping_patience"}


def test_the_papers_recipe_is_what_results_were_measured_with():
    paper = CIAOTrainingArguments.recipe("paper")
    assert (paper.num_train_epochs, paper.per_device_train_batch_size, paper.views) == (30, 64, 1)
    assert (paper.lr_scheduler_type, paper.warmup_ratio, paper.weight_decay) == ("cosine", 0.0, 0.01)
    assert (paper.class_balanced_batches, paper.class_balance, paper.max_grad_norm) == (True, 0.5, 1.0)
    assert paper.learning_rates("last_conv") == {"head": 1e-3, "mask": 1e-2, "encoder": 2e-3}


def test_every_recipe_says_all_that_decides_the_weights():
    decisive = set(CIAOTrainingArguments().weight_settings()) - NOT_OF_A_RECIPE
    for name, settings in RECIPES.items():
        missing = decisive - set(settings) - {"mask_learning_rate"}
        assert not missing, (name, missing)


def test_the_rate_of_the_mask_follows_its_form_and_changes_go_before():
    rates = {
        form: CIAOTrainingArguments.recipe("default", CIAOConfig(**CLASSES, inhibition_form=form)).mask_learning_rate
        for form in ("divisive", "gain", "additive", "subtractive")
    }
    assert rates == {"divisive": 1e-2, "gain": 1e-2, "additive": 1e-3, "subtractive": 1e-3}
    mine = CIAOTrainingArguments.recipe("default", views=1, mask_learning_rate=0.5)
    assert (mine.views, mine.mask_learning_rate, mine.per_device_train_batch_size) == (1, 0.5, 128)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CIAOTrainingArguments.recipe("thorouh"), "Unknown recipe 'thorouh' .*did you mean 'thorough'"),
        (lambda: CIAOTrainingArguments.recipe(["paper"]), "Unknown recipe"),
        (lambda: CIAOTrainingArguments.recipe("paper", epochs=3), "Unknown setting 'epochs'"),
        (lambda: CIAOTrainingArguments.recipe("default", {"views": 1}), "must be the CIAOConfig of the adapter"),
        (lambda: CIAOTrainingArguments(views=0), "`views` must be a whole number from 1"),
        (lambda: CIAOConfig.preset("ours", **CLASSES), "Unknown preset 'ours'"),
        (lambda: CIAOConfig.preset("paper"), "CIAOConfig needs"),
        (lambda: CIAOConfig.preset("paper", **CLASSES, temprature=1), "did you mean 'temperature'"),
    ],
)
def test_an_unknown_name_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_preset_of_the_paper_says_every_setting_that_the_paper_decides():
    config = CIAOConfig.preset("paper", **CLASSES)
    of_the_task = {"problem_type", "num_labels", "id2label", "label_range", "frames", "recurrent_size", "init_seed"}
    found_in_training = {"target_modules", "class_prior", "probability_temperature"}
    from ciao_peft.presets import PRESETS

    names = {field.name for field in dataclasses.fields(CIAOConfig)}
    assert set(PRESETS["paper"]) == names - of_the_task - found_in_training
    assert (config.inhibition_form, config.inhibition_rank, config.excitation_rank) == ("divisive", None, 0)
    assert (config.pooling, config.hidden_sizes, config.dropout, config.temperature) == ("flatten", (256,), 0.5, 0.1)
    chosen = {"inhibition_form": "rescaled", "excitation_rank": 32, "contrastive_weight": 0.1}
    assert dataclasses.replace(config, **chosen) == CIAOConfig(**CLASSES)


def test_the_preset_for_small_data_is_the_rescaled_form_without_excitation():
    config = CIAOConfig.preset("small-data", **CLASSES)
    assert config == CIAOConfig.preset("paper", **CLASSES, inhibition_form="rescaled")


# -- the command line -------------------------------------------------------------------------------------------------


def parser():
    kinds = [settings_parser(CIAOTrainingArguments, title="training")]
    kinds.append(settings_parser(CIAOConfig, title="adapter", leave_out=("problem_type", "num_labels", "id2label")))
    made = LateParser(parents=kinds)
    add_recipe(made)
    return made


def test_a_recipe_on_the_command_line_is_the_recipe_and_flags_change_it():
    for name in RECIPES:
        options = parser().parse_args(["--recipe", name])
        assert settings_from(options, CIAOTrainingArguments) == CIAOTrainingArguments.recipe(name)
    words = ["--recipe", "default", "--inhibition_form", "subtractive", "--views", "1"]
    words += ["--class_balanced_batches", "true"]
    mine = settings_from(parser().parse_args(words), CIAOTrainingArguments)
    config = CIAOConfig(**CLASSES, inhibition_form="subtractive")
    assert mine == CIAOTrainingArguments.recipe("default", config, views=1, class_balanced_batches=True)
    assert mine.mask_learning_rate == 1e-3


def test_a_preset_on_the_command_line_is_the_preset_and_decides_the_rate_of_a_recipe():
    options = parser().parse_args(["--preset", "compact", "--recipe", "default", "--excitation_rank", "4"])
    config = settings_from(options, CIAOConfig, **CLASSES)
    assert config == CIAOConfig.preset("compact", **CLASSES, excitation_rank=4)
    assert (config.inhibition_form, config.inhibition_rank, config.hidden_sizes) == ("gain", 16, ())
    mine = settings_from(options, CIAOTrainingArguments)
    assert mine == CIAOTrainingArguments.recipe("default", config)
    alone = parser().parse_args(["--preset", "compact"])
    assert settings_from(alone, CIAOTrainingArguments) == CIAOTrainingArguments()


def test_without_a_recipe_nothing_changes_and_a_parser_is_as_before():
    one = parser()
    one.parse_args(["--recipe", "thorough"])
    assert settings_from(one.parse_args([]), CIAOTrainingArguments) == CIAOTrainingArguments()


# -- views ------------------------------------------------------------------------------------------------------------


def mirrored_only(pictures):
    return [{**face, "pixel_values": face["pixel_values"].flip(2)} for face in pictures]


def test_two_views_are_the_picture_and_its_mirror_image_in_stored_features_and_in_pixels():
    model, pictures = make_model(), faces(6)
    augment = CIAOTrainingArguments(views=2).augmentation
    stored = cache_features(model, pictures, views=2, augment=augment)
    mirrored = cache_features(model, mirrored_only(pictures))
    numbers = list(range(6))
    torch.testing.assert_close(stored.features(numbers, 1)[0], mirrored.features(numbers)[0], rtol=1e-5, atol=1e-5)

    import numpy as np

    from ciao_peft.features import samples_of

    data = samples_of(pictures, None)
    source = BatchDataset(data, data.labels(), views=2, augment=augment)
    order = Order(np.arange(6), [6], 3)
    views, pixels = source.views_of(order), source[order].inputs["pixel_values"]
    assert views is not None and 0 < int(views.sum()) < 6
    for face, view, seen in zip(pictures, views, pixels, strict=True):
        expected = face["pixel_values"].flip(2) if view else face["pixel_values"]
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        source[Order(np.arange(6), [6])].inputs["pixel_values"], torch.stack([f["pixel_values"] for f in pictures])
    )


def test_a_training_stores_the_views_it_asks_for_and_equals_one_on_views_stored_before():
    one, other = make_trainer(views=2), make_trainer(views=2)
    one.train(faces())
    stored = cache_features(other.model, faces(), views=2, augment=other.args.augmentation, include_excitation=True)
    other.train(stored)
    assert_same(weights(one.model), weights(other.model))
    plain = make_trainer()
    plain.train(faces())
    assert not all(
        torch.equal(a, b) for a, b in zip(weights(plain.model).values(), weights(one.model).values(), strict=True)
    )


def test_training_from_pixels_sees_the_views_that_stored_features_have():
    one, other = make_trainer(views=2), make_trainer(views=2, feature_cache="never")
    one.train(faces())
    other.train(faces())
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(weights(other.model)[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


def test_evaluations_see_the_pictures_as_they_are():
    trainer, pictures = make_trainer(views=2), faces()
    trainer.train(pictures, pictures)
    last = [entry for entry in trainer.log_history if "eval_loss" in entry][-1]
    alone = CIAOTrainer(trainer.model, CIAOTrainingArguments()).evaluate(pictures)
    assert last["eval_loss"] == pytest.approx(alone["eval_loss"], abs=1e-6)


def test_stored_features_with_other_views_are_refused_and_without_the_setting_taken_as_they_are():
    model = make_model()
    stored = cache_features(model, faces())
    with pytest.raises(
        TrainingError, match=r"train_dataset has 1 stored of the 2 views.*leave `views` out, which takes what"
    ):
        make_trainer(model, views=2).train(stored)
    several = cache_features(model, faces(), views=3, augment=CIAOTrainingArguments(views=3).augmentation)
    make_trainer(model, views=None).train(several)


def test_many_trainings_share_the_views_and_refuse_others():
    model = make_model()
    model.add_adapter("two", model.adapters["default"].config)
    alone = make_trainer(views=2)
    alone.train(faces())
    arguments = alone.args
    jobs = [AdapterJob(adapter_name=name, args=arguments) for name in ("default", "two")]
    train_adapters(model, jobs, faces())
    for name, tensor in weights(alone.model).items():
        torch.testing.assert_close(weights(model, "two")[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    jobs = [AdapterJob(adapter_name="two", args=dataclasses.replace(arguments, views=3))]
    with pytest.raises(TrainingError, match="views"):
        train_adapters(model, jobs, cache_features(model, faces()))


def test_a_checkpoint_that_names_no_views_is_of_a_training_with_one(tmp_path):
    import json

    from ciao_peft.trainer.checkpoint import STATE_FILE

    settings = {"save_strategy": "epoch", "output_dir": tmp_path, "num_train_epochs": 2}
    whole = make_trainer(**settings)
    whole.train(faces())
    folder = tmp_path / "checkpoint-3"
    state = json.loads((folder / STATE_FILE).read_text())
    del state["record"]["arguments"]["views"], state["digest"]
    (folder / STATE_FILE).write_text(json.dumps(state | {"format_version": 1}))
    resumed = make_trainer(**settings, resume_from_checkpoint=str(folder))
    resumed.train(faces())
    assert_same(weights(whole.model), weights(resumed.model))
    with pytest.raises(TrainingError, match="'views' is 1 there and 2 here"):
        make_trainer(**settings, views=2, resume_from_checkpoint=str(folder)).train(faces())
