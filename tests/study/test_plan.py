"""What a plan asks for: a part of the people, an encoder that is fed otherwise, a search alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ciao_peft import CIAOTrainingArguments
from ciao_peft.errors import ConfigError
from ciao_peft.study import Method, plan_from_flags, read_records
from ciao_peft.study.data import Material, load_study_encoder, load_task
from ciao_peft.study.plan import Run
from ciao_peft.study.training import Training
from ciao_peft.study.worklist import Worklist
from helpers.studies import SMALL, painted, plan_of, tiny_encoder


def test_every_method_reads_the_part_of_the_people_that_its_seed_draws(tmp_path):
    plan = plan_of(tmp_path)
    plan = replace(plan, arguments={**plan.arguments, "views": 2})
    task = replace(painted("few", options=SMALL | {"num_train": 120}), train_fraction=0.5)
    material = Material(load_task(task), load_study_encoder(plan.encoders[0]), tmp_path / "features")
    (fold,) = material.loaded.folds
    who, rows = list(fold.train["identity"]), {}
    for needs in ("features", "pixels"):
        method = replace(plan.methods[0], needs=needs)
        for seed in (0, 1):
            run = Run(task=task, encoder=plan.encoders[0], method=method, seed=seed)
            train, test, _ = Training(run, plan, material)._data(fold)
            assert 0 < len(train) < len(fold.train) and len(test) == len(fold.test)
            rows[needs, seed] = train.labels.tolist()
            held = Training(replace(run, split="validation"), plan, material)._data(fold)
            assert len(held[0]) + len(held[1]) == len(train)
    assert rows["features", 0] == rows["pixels", 0] and rows["features", 0] != rows["features", 1]
    stored = material.splits(fold, "features", 2, CIAOTrainingArguments(views=2).augmentation)
    assert (stored["train"].views, stored["test"].views) == (2, 1)
    kept = material.loaded.held_out(fold, 0.3, 0)[1]
    assert not {who[row] for row in kept} & {who[row] for row in range(len(who)) if row not in kept}


def test_an_encoder_is_fed_as_the_plan_says(tmp_path):
    tiny = tiny_encoder(tmp_path / "tiny")
    plain = load_study_encoder(tiny)
    other = load_study_encoder(replace(tiny, preprocessing={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}))
    assert other.module.preprocessing.mean == (0.5, 0.5, 0.5)
    assert other.signature != plain.signature


def test_without_seeds_a_search_is_all_that_is_trained(tmp_path):
    plan = replace(plan_of(tmp_path), seeds=0)
    assert plan.seeds == ()
    Worklist(plan, tmp_path / "run", say=lambda line: None).work()
    assert {record.split for record in read_records(tmp_path / "run")} == {"validation"}
    with pytest.raises(ConfigError, match="`seeds` must be"):
        replace(plan, search_rates=0)


def test_null_among_the_settings_of_a_training_is_a_setting_that_is_left_out():
    method = Method(name="mine", arguments={"views": None, "num_train_epochs": None, "learning_rate": 0.01})
    assert method.arguments == {"learning_rate": 0.01}
    plan = plan_from_flags(["faces=data"], ["small-face"], ["decision layer"], seeds=1, epochs=2)
    assert replace(plan, arguments={"mask_learning_rate": None}).arguments == {}
