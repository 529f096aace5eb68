"""Views of pictures in a study: every method learns from as many as the plan's arguments say."""

from __future__ import annotations

import pytest
import torch

from ciao_peft import CIAOTrainingArguments
from ciao_peft.errors import TrainingError
from ciao_peft.study import METHODS
from ciao_peft.study.baselines import build_baseline
from ciao_peft.study.baselines.fit import fit
from ciao_peft.study.data import Material, load_study_encoder, load_task
from ciao_peft.study.plan import Run
from ciao_peft.study.training import Training
from helpers.fakes import small_config, tiny_backbone
from helpers.studies import painted, plan_of
from helpers.training import faces


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    names = ("decision layer + CIAO", "LoRA r=4", "Head2Toe")
    plan = plan_of(
        folder,
        tasks=(painted("affect"),),
        methods=tuple(METHODS[name] for name in names),
        arguments={"per_device_train_batch_size": 16, "views": 2},
    )
    material = Material(load_task(plan.tasks[0]), load_study_encoder(plan.encoders[0]), folder / "features")
    return plan, material


def test_the_views_of_the_training_split_are_stored_beside_those_of_the_others(studied):
    _, material = studied
    fold = material.loaded.folds[0]
    augment = CIAOTrainingArguments(views=2).augmentation
    one, two = material.splits(fold, "features"), material.splits(fold, "features", 2, augment)
    assert {name: split.views for name, split in two.items()} == {"train": 2, "test": 1}
    assert {name: split.views for name, split in one.items()} == {"train": 1, "test": 1}
    assert torch.equal(two["train"].features([0, 3], 0)[0], one["train"].features([0, 3])[0])
    assert not torch.equal(two["train"].features([0, 3], 1)[0], one["train"].features([0, 3])[0])


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("split", ["test", "validation"])
def test_every_method_learns_from_them(place, split, studied):
    plan, material = studied
    run = Run(task=plan.tasks[0], encoder=plan.encoders[0], method=plan.methods[place], seed=0, rate=1e-3, split=split)
    record = Training(run, plan, material).train()
    assert record.error is None and record.arguments["views"] == 2


def test_a_baseline_on_features_with_other_views_is_refused():
    baseline = build_baseline("head2toe", tiny_backbone(), small_config(), size=48)
    args = CIAOTrainingArguments(max_steps=1, per_device_train_batch_size=4, views=2, disable_tqdm=True)
    stored = baseline.stored(faces(8))
    with pytest.raises(TrainingError, match="train_dataset has 1 stored of the 2 views"):
        fit(baseline, stored, args)
    two = baseline.stored(faces(8), 2, args.augmentation)
    assert two.views == 2 and len(two) == 8
    torch.testing.assert_close(
        two.features([1], 1)[0],
        baseline.stored([{**face, "pixel_values": face["pixel_values"].flip(2)} for face in faces(8)]).features([1])[0],
        rtol=1e-2,
        atol=1e-2,
    )
