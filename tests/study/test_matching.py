"""Which records a plan asks for: those that it would train again if they were not there, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ciao_peft.config import CIAOConfig
from ciao_peft.study import METHODS, Encoder, Plan, Record, Task, read_plan, read_records, write_plan
from ciao_peft.study.analysis.study import CIAO, Study
from ciao_peft.study.matching import differing, fits, spelled_out
from ciao_peft.study.worklist import Worklist
from helpers.studies import HEAD, painted, plan_of, record

MASK_RATE = METHODS[CIAO].rates[2]
PLAN = Plan(
    tasks=(Task(name="faces", dataset="imagefolder", config={"label_range": [0.0, 1.0]}),),
    encoders=(Encoder(name="small-face"),),
    methods=(METHODS[CIAO], METHODS["linear probe (pooled)"], METHODS["LoRA r=4"]),
    seeds=2,
    epochs=3,
    arguments={"bf16": True},
)
RECORD = record(
    CIAO,
    0,
    0.8,
    config={"label_range": [0.0, 1.0], "tuning": "decision_layer"},
    arguments={"bf16": True, "mask_learning_rate": MASK_RATE},
)


def planned(method: str = CIAO, **changes) -> Plan:
    """The plan with one method changed."""
    return replace(PLAN, methods=tuple(replace(one, **changes) if one.name == method else one for one in PLAN.methods))


def trained(**changes) -> Record:
    return replace(RECORD, **changes)


def test_a_record_that_does_not_say_how_it_was_made_is_one_of_the_first():
    values = RECORD.to_dict()
    assert fits(Record.from_dict(values), PLAN)
    del values["protocol"]
    assert Record.from_dict(values).protocol == 1
    assert not fits(Record.from_dict(values), PLAN)


def test_a_setting_that_is_left_out_is_the_paper_s_whatever_the_defaults_are():
    said = {**RECORD.config, "inhibition_form": "divisive"}
    assert fits(trained(config=said), PLAN)
    assert not fits(trained(config={**said, "inhibition_form": CIAOConfig.inhibition_form}), PLAN)
    assert fits(trained(config={**said, "inhibition_form": "gain"}), planned(config={"inhibition_form": "gain"}))


def test_a_training_with_the_settings_of_the_plan_fits_it():
    assert fits(RECORD, PLAN)
    assert fits(trained(seed=1, split="validation", arguments=RECORD.arguments), replace(PLAN, search_seeds=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 1},
        {"epochs": 6.0},
        {"seed": 2},
        {"task": "others"},
        {"dataset": "fer2013"},
        {"encoder": "vggface2"},
        {"method": "hot"},
        {"config": {**RECORD.config, "temperature": 0.5}},
        {"config": {"tuning": "decision_layer"}},
        {"arguments": {"mask_learning_rate": MASK_RATE}},
        {"arguments": {**RECORD.arguments, "weight_decay": 0.5}},
        {"arguments": {**RECORD.arguments, "mask_learning_rate": 0.02}},  # not on the grid
        {"arguments": {**RECORD.arguments, "a setting of another version": 1}},
        {"arguments": {"bf16": True}},
        {"settings": {"rank": 4}},
        {"split": "validation", "seed": 1},  # one seed searches
        {"split": "validation", "epochs": 1.0},
    ],
    ids=str,
)
def test_a_training_with_anything_else_does_not_fit(changes):
    assert not fits(trained(**changes), PLAN)


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({"epochs": 6.0}, planned(arguments={"num_train_epochs": 6})),  # goes before the plan's
        ({"epochs": 1.0, "split": "validation"}, replace(PLAN, search_epochs=1)),
        ({"config": {**RECORD.config, "temperature": 0.5}}, planned(config={"temperature": 0.5})),
        ({"arguments": {**RECORD.arguments, "mask_learning_rate": 0.02}}, planned(rates=(0.02,))),
        ({"arguments": {"bf16": True}}, replace(PLAN, search_rates=0)),
    ],
    ids=["epochs", "epochs of a search", "config", "rates", "no search"],
)
def test_it_fits_the_plan_that_asks_for_it(changes, plan):
    assert not fits(trained(**changes), PLAN)
    assert fits(trained(**changes), plan)
    assert not fits(RECORD, plan) or "split" in changes


def test_what_changes_no_result_and_what_is_the_default_is_no_difference():
    """As in the key of a training: otherwise it would count as done and be shown nowhere."""
    assert fits(RECORD, replace(PLAN, arguments={"bf16": True, "dataloader_num_workers": 4, "weight_decay": 0.01}))
    assert fits(RECORD, planned(config={"dropout": 0.5, "hidden_sizes": (256,)}))
    assert fits(trained(config={"label_range": (0, 1), "hidden_sizes": (256,)}), PLAN)


def test_tuples_of_a_plan_are_the_lists_of_a_file():
    probe = METHODS["linear probe (pooled)"]
    assert probe.config["hidden_sizes"] == ()
    config = {**probe.config, **PLAN.tasks[0].config, "hidden_sizes": []}
    line = record(probe.name, 0, 0.5, config=config, arguments={"bf16": True, "learning_rate": probe.rates[0]})
    assert fits(line, PLAN)
    assert not fits(replace(line, config=config | {"hidden_sizes": [256]}), PLAN)


def test_a_task_with_folds_has_a_rate_for_each_where_rates_are_searched():
    folds = {"samples": {"folds": 2}, "arguments": {"bf16": True}}
    assert fits(trained(**folds, fold_rates={"KA": 0.001, "KR": MASK_RATE}), PLAN)
    assert not fits(trained(**folds, fold_rates={"KA": 0.001, "KR": 0.02}), PLAN)
    assert not fits(trained(samples={"folds": 2}), PLAN)  # one rate, chosen by faces that another fold tests on
    assert fits(trained(samples={"folds": 2}), planned(rates=(MASK_RATE,)))
    assert not fits(trained(**folds, fold_rates={"KA": 0.001, "KR": 0.01}), replace(PLAN, search_rates=0))


def test_a_plan_with_settings_that_there_are_not_asks_for_nothing():
    assert not fits(RECORD, planned(arguments={"magic": True}))
    assert not fits(trained(arguments=RECORD.arguments | {"magic": True}), planned(arguments={"magic": True}))


def test_all_that_a_study_trains_fits_its_plan(tmp_path):
    whole = plan_of(tmp_path)
    probe = replace(METHODS["linear probe (pooled)"], rates=(1e-3, 1e-2))
    plan = replace(
        whole,
        tasks=(painted("signals", config={"hidden_sizes": [8], "temperature": 1}),),
        methods=(probe, replace(whole.methods[1], arguments={"max_grad_norm": 0.5})),
        seeds=(0,),
        search_epochs=0.5,
    )
    assert Worklist(plan, tmp_path / "run", say=lambda line: None).work().failed == {}
    write_plan(plan, tmp_path / "plan.yaml")
    records = read_records(tmp_path / "run")
    assert len(records) == 6
    for known in (plan, read_plan(tmp_path / "plan.yaml")):
        assert Study(records, known).aside == []
    assert Study(records, replace(plan, epochs=2.0)).records == [r for r in records if r.split == "validation"]


# -- what a study makes of it ------------------------------------------------------------------------------------------


def lines(*scores: float, **more) -> list[Record]:
    return [record(HEAD, seed, score, **more) for seed, score in enumerate(scores)]


SMALL = replace(PLAN, tasks=(Task(name="faces", dataset="imagefolder"),), methods=(METHODS[HEAD],), arguments={})


def test_a_later_record_of_another_plan_does_not_take_the_place_of_one_that_fits():
    study = Study([*lines(0.5, 0.6), *lines(0.9, 0.9, epochs=6.0)], SMALL)
    assert study.results("faces", "small-face")[HEAD].scores() == {0: 0.5, 1: 0.6}
    assert len(study.aside) == 2
    assert len(study.records) == 2


def test_without_a_plan_the_last_record_counts_and_none_is_left_aside():
    study = Study([*lines(0.5, 0.6), *lines(0.9, 0.9, epochs=6.0)])
    assert study.results("faces", "small-face")[HEAD].scores() == {0: 0.9, 1: 0.9}
    assert study.aside == []


def test_the_rate_that_the_search_chose_goes_before_a_later_one():
    """A plan that tried fewer rates for a while, and is back at four."""
    low, high = METHODS[HEAD].rates[1:3]
    searched = [
        record(HEAD, 0, score, split="validation", arguments={"learning_rate": rate})
        for rate, score in ((low, 0.5), (high, 0.7))
    ]
    tested = [record(HEAD, 0, score, arguments={"learning_rate": rate}) for rate, score in ((high, 0.72), (low, 0.52))]
    result = Study([*searched, *tested], SMALL).results("faces", "small-face")[HEAD]
    assert (result.scores(), result.rate) == ({0: 0.72}, ("learning_rate", high))
    assert Study([*searched, *tested]).results("faces", "small-face")[HEAD].scores() == {0: 0.52}


def test_a_rank_of_null_is_one_that_is_left_out():
    assert differing({"excitation_rank": None}, CIAOConfig) == {}
    assert spelled_out({"excitation_rank": None})["excitation_rank"] == 0
