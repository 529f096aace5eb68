"""Pictures without labels in a training: what is learned from them, resumed to the bit, and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features
from ciao_peft.errors import CIAOError, ConfigError, FeatureCacheError, TrainingError
from ciao_peft.losses import task_loss
from ciao_peft.trainer.sampler import plan_epoch
from ciao_peft.trainer.seeds import seed_of
from ciao_peft.trainer.unlabelled import unlabelled_order
from helpers.fakes import tiny_backbone
from helpers.losses import by_definition
from helpers.training import assert_same, faces, make_model, make_trainer, weights

VIEWS = CIAOTrainingArguments(views=2)


def bare(count=20, seed=5):
    """Pictures of the same three kinds, without labels."""
    return [{"pixel_values": face["pixel_values"]} for face in faces(count, seed=seed)]


def of_two(model):
    """Stored features of labelled and of unlabelled pictures, in two views each."""
    stored = {"views": 2, "augment": VIEWS.augmentation}
    return cache_features(model, faces(), **stored), cache_features(model, bare(), **stored)


def arguments(**changes):
    values = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "views": 2}
    return CIAOTrainingArguments(
        **(values | {"pseudo_label_confidence": 0.3, "pseudo_label_share": 1.0, "unlabelled_warmup": 0.0} | changes)
    )


def trained(model, labelled, unlabelled, **changes):
    trainer = CIAOTrainer(model, arguments(**changes))
    trainer.train(labelled, unlabelled=unlabelled)
    return trainer


def test_without_unlabelled_pictures_their_settings_change_no_bit():
    results = []
    for changes in ({}, {"unlabelled_ratio": 7, "pseudo_label_confidence": 0.1, "adaptive_confidence": True}):
        trainer = make_trainer(views=2, **changes)
        trainer.train(faces())
        assert not any("unlabelled" in name or "pseudo" in name for name in trainer.training_record()["arguments"])
        results.append(weights(trainer.model))
    assert_same(*results)


def test_one_update_is_that_of_the_definition():
    args = arguments(max_steps=1, class_balanced_batches=False, contrast_unlabelled=True)
    settings = {"dropout": 0.0, "contrastive_weight": 0.7, "temperature": 0.2, "decay_init": 1.0}
    model, other = make_model(**settings), make_model(**settings)
    labelled, unlabelled = of_two(model)
    logged = trained(model, labelled, unlabelled, **vars(args)).log_history[0]

    rows = torch.from_numpy(plan_epoch(labelled.labels.numpy(), 8, seed=args.seed, epoch=0)[0])
    views = np.random.default_rng(seed_of(args.seed, 0, 0, 0)).integers(0, 2, 8)
    read = labelled.features(rows, torch.from_numpy(views))
    others = torch.from_numpy(unlabelled_order(len(unlabelled), 0, 16, args.seed))
    learning, deciding = unlabelled.features(others, 1), unlabelled.features(others, 0)
    decided = other.eval()(features=deciding)
    output = other(features=tuple(torch.cat(pair) for pair in zip(read, learning, strict=True)))
    z = torch.cat([output.embeddings, decided.embeddings])
    ids = torch.cat([labelled.labels[rows], 50 + torch.arange(16), 50 + torch.arange(16)])
    contrastive = by_definition(z.double(), ids, 0.2, "all", "mean")
    sure, own = decided.logits.softmax(dim=1).max(dim=1)
    each = torch.nn.functional.cross_entropy(output.logits[8:], own, reduction="none")
    task = task_loss(output.logits[:8], labelled.labels[rows], other.peft_config["default"])
    assert logged["task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert logged["contrastive_loss"] == pytest.approx(contrastive.item(), rel=1e-5)
    expected = task + 0.7 * contrastive + (each * (sure >= 0.3)).sum() / 16
    assert logged["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_pseudo_labels_wait_for_the_warm_up_and_are_logged():
    trainer = trained(model := make_model(contrastive_weight=0.0), *of_two(model), max_steps=4, unlabelled_warmup=0.5)
    extra = [entry["loss"] - entry["task_loss"] for entry in trainer.log_history[:4]]
    assert extra[:2] == [0.0, 0.0]
    assert min(extra[2:]) > 0
    assert trainer.log_history[3]["pseudo_labels_counted"] > 0
    assert trainer.training_record()["arguments"]["unlabelled_samples"] == 20


def test_pictures_and_their_stored_features_train_the_same_adapter():
    results = []
    for stored in (False, True):
        model = make_model()
        data = of_two(model) if stored else (faces(), bare())
        results.append(weights(trained(model, *data).model))
    assert_same(*results)


def test_labels_of_unlabelled_pictures_are_not_looked_at():
    results = []
    for label in (None, 77):
        own = bare() if label is None else [{**face, "labels": torch.tensor(label)} for face in bare()]
        results.append(weights(trained(make_model(), faces(), own, feature_cache="never").model))
    assert_same(*results)


@pytest.mark.parametrize("stored", [True, False])
def test_a_training_that_stopped_goes_on_to_the_bit(tmp_path, stored):
    more = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "feature_cache": "auto" if stored else "never"}
    more |= {"pseudo_label_alignment": 0.5, "contrast_unlabelled": True}
    whole = trained(make_model(), faces(), bare(), output_dir=str(tmp_path / "whole"), **more)
    again = trained(
        make_model(), faces(), bare(), output_dir=str(tmp_path / "again"), **more,
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"),
    )  # fmt: skip
    assert_same(weights(whole.model), weights(again.model))
    last = [[entry.get("pseudo_labels_counted") for entry in trainer.log_history][5] for trainer in (whole, again)]
    assert last[0] == last[1] > 0


def test_a_checkpoint_goes_on_with_the_same_unlabelled_pictures_only(tmp_path):
    more = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path)}
    trained(make_model(), faces(), bare(), **more)
    for other in (None, bare(19)):
        with pytest.raises(TrainingError, match="'unlabelled' is"):
            trained(make_model(), faces(), other, **more, resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_other_problems_learn_from_views_alone():
    values = {"problem_type": "regression", "num_labels": 2, "contrastive_weight": 1.0}
    sets = {"problem_type": "multi_label_classification", "num_labels": 2, "contrastive_weight": 1.0}
    for task, label in ((values, lambda n: [n % 3 / 3, 0.1]), (sets, lambda n: [n % 2, 1])):
        own = faces(label_of=label)
        alone, both = (
            trained(make_model(**task), own, other, max_steps=2, contrast_unlabelled=True) for other in (None, bare())
        )
        extra = both.log_history[0]["loss"] - both.log_history[0]["task_loss"]
        assert extra == pytest.approx(both.log_history[0]["contrastive_loss"], rel=1e-5)
        assert both.log_history[0]["contrastive_loss"] != alone.log_history[0]["contrastive_loss"]
        with pytest.raises(TrainingError, match="Nothing would be learned from `unlabelled`"):
            trained(make_model(**task), own, bare())


def nan_faces():
    own = bare()
    own[3] = {"pixel_values": torch.full_like(own[3]["pixel_values"], float("nan"))}
    return own


REFUSED = {
    "none": (list, {}, CIAOError, "empty"),
    "nan": (nan_faces, {}, CIAOError, "NaN"),
    "no pictures": (lambda: [{"labels": 1}], {}, CIAOError, "pixel_values"),
    "two steps": (bare, {"two_steps": True}, TrainingError, "two_steps"),
    "compiled": (bare, {"compile": True}, TrainingError, "compile"),
    "nothing to learn": (bare, {"views": 1, "unlabelled_weight": 0.0}, TrainingError, "Nothing would be learned"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_refused_and_changes_nothing(case):
    make, changes, error, text = REFUSED[case]
    model = make_model()
    before = weights(model)
    with pytest.raises(error, match=text):
        trained(model, faces(), make(), **changes)
    assert_same(before, weights(model))


def test_labelled_pictures_of_one_class_are_refused_but_their_views_are_not():
    model, own = make_model(), faces(label_of=lambda n: 1)
    with pytest.raises(TrainingError, match="one class only \\(LABEL_1\\)"):
        trained(model, own, bare())
    trained(model, own, bare(), unlabelled_weight=0.0, contrast_unlabelled=True, max_steps=1)


def test_stored_features_of_another_encoder_are_refused():
    foreign = cache_features(make_model(tiny_backbone(seed=3)), bare(), views=2, augment=VIEWS.augmentation)
    model = make_model()
    labelled, _ = of_two(model)
    with pytest.raises(FeatureCacheError, match="not made by this model"):
        trained(model, labelled, foreign)
    with pytest.raises(TrainingError, match="or both as pictures"):
        trained(model, labelled, bare(), feature_cache="never")
    with_u = cache_features(model, bare(), views=2, augment=VIEWS.augmentation, include_excitation=True)
    without = cache_features(model, bare(), views=2, augment=VIEWS.augmentation, include_excitation=False)
    with pytest.raises(CIAOError, match="include_excitation"):
        trained(model, with_u.with_labels(torch.arange(20) % 3), without)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unlabelled_ratio", 0),
        ("unlabelled_weight", -1.0),
        ("unlabelled_warmup", 1.5),
        ("pseudo_label_confidence", float("nan")),
        ("pseudo_label_share", 1.1),
        ("pseudo_label_alignment", "much"),
        ("adaptive_confidence", 1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        CIAOTrainingArguments(**{name: value})


def test_every_unlabelled_sample_comes_once_in_a_pass_wherever_reading_begins():
    whole = unlabelled_order(7, 0, 21, seed=3)
    assert all(sorted(whole[i : i + 7].tolist()) == [*range(7)] for i in (0, 7, 14))
    assert whole[:7].tolist() != whole[7:14].tolist()
    assert [unlabelled_order(7, first, 4, seed=3).tolist() for first in (2, 5, 12)] == [
        whole[first : first + 4].tolist() for first in (2, 5, 12)
    ]
