"""What decides a training, who chooses its learning rate, and what happens when one of many cannot be done."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ciao_peft.data import LabelSet
from ciao_peft.errors import ConfigError
from ciao_peft.study import (
    METHODS,
    Encoder,
    Method,
    Plan,
    Task,
    method_from_file,
    methods_named,
    plan_from_flags,
    plan_to_dict,
    read_records,
)
from ciao_peft.study.data import LoadedEncoder, LoadedTask, Material, load_study_encoder, load_task
from ciao_peft.study.plan import Run
from ciao_peft.study.training import Training
from ciao_peft.study.worklist import Worklist
from helpers.layouts import jaffe_names, write_jaffe
from helpers.studies import painted, plan_of


def quiet(plan: Plan, folder) -> Worklist:
    return Worklist(plan, folder, say=lambda line: None)


@pytest.fixture
def plan(tmp_path) -> Plan:
    """One task, one network, one seed, no search."""
    whole = plan_of(tmp_path)
    return replace(whole, tasks=whole.tasks[:1], methods=whole.methods[:1], seeds=(0,), search_rates=0)


# -- the score that counts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["acuracy", "rmse", "concordance"])
def test_a_metric_that_classes_do_not_have_is_refused_with_those_they_have(metric):
    with pytest.raises(ConfigError, match=rf"the metric '{metric}'.*'accuracy', 'balanced_accuracy', 'macro_f1'"):
        load_task(painted("moods", metric=metric))


def test_an_error_is_no_score_to_choose_the_best_by():
    with pytest.raises(ConfigError, match="For regression choose one of 'concordance', 'concordance_arousal'"):
        load_task(painted("affect", metric="rmse"))


# -- folds: what is held out for one is tested in another --------------------------------------------------------------


@pytest.fixture(scope="module")
def leave_one_out(tmp_path_factory):
    """Three women of JAFFE, each left out once, two learning rates, worked off."""
    folder = tmp_path_factory.mktemp("folds")
    names = [name for name in jaffe_names() if name[:2] in ("KA", "KR", "YM")]
    files = write_jaffe(folder / "jaffe", names, size=32)
    task = Task(
        name="jaffe_subjects",
        dataset="jaffe",
        data_dir=str(files),
        options={"protocol": "leave-one-subject-out", "fold": "all", "cache_dir": str(folder / "cache")},
        group_by="identity",
        config={"hidden_sizes": [8]},
    )
    plan = plan_of(folder)
    plan = replace(plan, tasks=(task,), methods=plan.methods[:1], seeds=(0,))
    worklist = quiet(plan, folder / "run")
    assert worklist.work().failed == {}
    return plan, worklist, read_records(folder / "run")


def test_each_fold_chooses_its_own_learning_rate_by_its_own_training_faces(leave_one_out):
    _, _, records = leave_one_out
    tried = {record.arguments["learning_rate"]: record for record in records if record.split == "validation"}
    (tested,) = (record for record in records if record.split == "test")
    assert set(tried) == {1e-3, 1e-2}
    assert len(tested.fold_rates) == 3
    for fold, rate in tested.fold_rates.items():
        scores = {rate: record.fold_scores[fold] for rate, record in tried.items()}
        assert rate == min(rate for rate in scores if scores[rate] == max(scores.values()))
    assert tested.samples["folds"] == 3
    assert tested.fold_scores == {}
    assert "learning_rate" not in tested.arguments


def test_the_rate_of_a_fold_is_the_one_it_trains_with_and_part_of_the_key(leave_one_out):
    plan, worklist, _ = leave_one_out
    task, encoder, method = plan.tasks[0], plan.encoders[0], plan.methods[0]
    names = [fold.name for fold in worklist._tasks[task.name].folds]
    material = worklist._material(task, encoder)
    one, other = (
        Training(Run(task=task, encoder=encoder, method=method, seed=0, fold_rates=rates), plan, material)
        for rates in (dict.fromkeys(names, 1e-3), dict.fromkeys(names, 1e-3) | {names[1]: 1e-2})
    )
    assert one.key != other.key
    assert [other.arguments(name).learning_rate for name in names] == [1e-3, 1e-2, 1e-3]


def test_the_score_of_all_folds_together_chooses_no_rate(leave_one_out, monkeypatch):
    plan, worklist, records = leave_one_out
    names = [fold.name for fold in worklist._tasks["jaffe_subjects"].folds]
    made_up = {
        1e-3: replace(records[0], scores={"accuracy": 0.1}, fold_scores=dict(zip(names, (0.7, 0.0, 0.5), strict=True))),
        1e-2: replace(records[0], scores={"accuracy": 0.9}, fold_scores=dict(zip(names, (0.2, 1.0, 0.5), strict=True))),
    }
    monkeypatch.setattr(worklist, "_record", lambda run: made_up[run.rate])
    chosen = worklist.chosen_rate(plan.tasks[0], plan.encoders[0], plan.methods[0])
    assert chosen == dict(zip(names, (1e-3, 1e-2, 1e-3), strict=True))  # of equal ones the lower


def test_the_frames_of_a_clip_are_held_out_together_where_nobody_says_who_it_is():
    loaded = load_task(painted("affect", group_by=None, average_by="identity"))
    people = loaded.folds[0].train["identity"]
    rest, held = loaded.held_out(loaded.folds[0], 0.4, seed=0)
    assert held
    assert not {people[row] for row in rest} & {people[row] for row in held}


# -- what decides a training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("LoRA r=4", ["298cf744c6f8d6e2", "f21c557a82276ad9"]),
        ("norm and bias", ["6b200a8d9739a18a", "8e49df05555bb226"]),
        ("decision layer + CIAO", ["5c340297a8656656", "338275c58911bc2e"]),
    ],
)
def test_results_of_earlier_releases_keep_their_keys(method, keys, tmp_path):
    """Computed by the release whose files named `rival`; with other keys everything would be trained again."""
    task, encoder = Task(name="faces", dataset="imagefolder"), Encoder(name="tiny")
    labels = LabelSet("single_label_classification", ("a", "b"))
    loaded = LoadedTask(task, (), labels, "accuracy", fingerprint="pictures")
    material = Material(loaded, LoadedEncoder(encoder, torch.nn.Identity(), "1", signature="weights"), tmp_path)
    plan = Plan(tasks=(task,), encoders=(encoder,), methods=(METHODS[method],))
    run = Run(task=task, encoder=encoder, method=METHODS[method], seed=3, rate=1e-3)
    assert [Training(replace(run, split=split), plan, material).key for split in ("test", "validation")] == keys


def test_files_keep_the_old_name_of_a_baseline(tmp_path):
    plan = plan_from_flags(["fer=x"], ["small-face"], ["rivals", "decision layer"], seeds=1)
    assert plan.methods == plan_from_flags(["fer=x"], ["small-face"], ["baselines", "decision layer"], seeds=1).methods
    assert {method.kind for method in plan.methods} == {"network", "rival"}
    in_file = {"kind": "rival", "rival": "lora", "settings": {"rank": 4}}
    mine = Method(name="mine", kind="rival", baseline="lora", settings={"rank": 4})
    assert plan_to_dict(replace(plan, methods=(mine,)))["methods"] == {"mine": in_file}
    assert methods_named({"mine": in_file}) == (mine,)
    (tmp_path / "mine.json").write_text(json.dumps({"name": "mine", **in_file}))
    assert method_from_file(tmp_path / "mine.json") == mine


@pytest.mark.parametrize("changes", [{"epochs": 2.0}, {"arguments": {"max_steps": 3, "lr_scheduler_type": "constant"}}])
def test_the_length_of_a_training_is_in_its_key_whatever_the_schedule(changes, plan, tmp_path):
    constant = replace(plan, arguments={"lr_scheduler_type": "constant"})
    material = Material(load_task(plan.tasks[0]), load_study_encoder(plan.encoders[0]), tmp_path)
    run = Run(task=plan.tasks[0], encoder=plan.encoders[0], method=plan.methods[0], seed=0)
    assert Training(run, constant, material).key != Training(run, replace(constant, **changes), material).key


def test_another_dtype_of_the_stored_features_is_stored_beside_them(plan, tmp_path):
    for dtype in (None, "bfloat16"):
        progress = quiet(replace(plan, feature_dtype=dtype), tmp_path / "run").work()
        assert progress.failed == {}
    assert len(read_records(tmp_path / "run")) == 2


def test_what_was_trained_for_another_plan_does_not_count_as_done(plan, tmp_path):
    assert quiet(plan, tmp_path / "run").work().done == 1
    for other in (replace(plan, epochs=2.0), replace(plan, arguments={"per_device_train_batch_size": 8})):
        worklist = quiet(other, tmp_path / "run")
        assert (worklist.look().done, worklist.progress.total) == (0, 1)
    assert quiet(plan, tmp_path / "run").look().done == 1


# -- what cannot be done -----------------------------------------------------------------------------------------------


def test_too_little_memory_for_one_training_ends_no_other(plan, tmp_path, monkeypatch):
    two = replace(plan, methods=plan_of(tmp_path).methods)
    fit = Training.fit

    def short_of_memory(training, fold):
        if training.run.method.name == "decision layer":
            raise torch.OutOfMemoryError("the last byte is gone")
        return fit(training, fold)

    monkeypatch.setattr(Training, "fit", short_of_memory)
    progress = quiet(two, tmp_path / "run").work()
    assert progress.failed == {
        "affect, tiny, decision layer, seed 0": "OutOfMemoryError: the last byte is gone",
    }
    assert [record.method for record in read_records(tmp_path / "run")] == ["decision layer + CIAO"]


def test_a_task_that_is_not_there_takes_no_encoder_of_its_name_with_it(plan, tmp_path):
    absent = Task(name="tiny", dataset="fer2013", data_dir=str(tmp_path / "nowhere"))
    progress = quiet(replace(plan, tasks=(absent, *plan.tasks)), tmp_path / "run").work()
    assert list(progress.skipped) == ["task tiny"]
    assert (progress.done, progress.total) == (1, 1)
    missing = Encoder(name="affect", source=str(tmp_path / "no encoder"))
    progress = quiet(replace(plan, encoders=(missing, *plan.encoders)), tmp_path / "run").work()
    assert list(progress.failed) == ["encoder affect"]
    assert progress.done == 1


@pytest.mark.parametrize("seeds", [5.0, None, "3", [], [1, 1], [-1], True])
def test_seeds_that_are_none_are_refused(seeds, plan):
    with pytest.raises(ConfigError, match="`seeds` must be a number of runs or different whole numbers"):
        replace(plan, seeds=seeds)
