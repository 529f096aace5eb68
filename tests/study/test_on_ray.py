"""Trainings and trials in Ray's workers come out as those of one process, also when a machine is lost."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from ciao_peft.cli import main
from ciao_peft.engine import RayEngine, RayTasks
from ciao_peft.errors import ConfigError, DataNotFoundError, MissingExtraError
from ciao_peft.study import read_records, tune, write_plan
from ciao_peft.study.on_ray import RayWorklist
from ciao_peft.study.search import search_settings
from ciao_peft.study.worklist import Worklist
from helpers.ray_here import Machines, machines, needs_ray
from helpers.searches import SMALL, TASK, search
from helpers.studies import plan_of, tiny_encoder
from helpers.tuning import LEARNING, STUCK, folder_of, told, tuned


@pytest.fixture(scope="module")
def two() -> Iterator[Machines]:
    with machines(2) as started:
        yield started


def outcome(records: list) -> dict[str, tuple]:
    """What was measured, without what differs between two runs of the same training."""
    return {r.key: (r.task, r.method, r.split, r.seed, r.arguments, r.scores, r.confusion, r.history) for r in records}


@needs_ray
def test_a_study_of_which_a_machine_is_lost_has_the_results_of_one_process(two, tmp_path, monkeypatch):
    plan, taken, first_done = plan_of(tmp_path), [], RayTasks.first_done

    def losing(tasks):
        taken.append(len(tasks))
        if len(taken) == 4:
            two.lose_one()
        return first_done(tasks)

    monkeypatch.setattr(RayTasks, "first_done", losing)
    shown = []
    shared = RayWorklist(plan, tmp_path / "shared", shown.append, engine=RayEngine(workers=2))
    try:
        progress = shared.work()
    finally:
        two.add_one()
    assert (progress.done, progress.total, progress.failed, shown) == (16, 16, {}, [])
    assert max(taken) == 2  # both machines were at work
    Worklist(plan, tmp_path / "alone", say=shown.append).work()
    records = read_records(tmp_path / "shared")
    assert Counter(record.key for record in records).most_common(1)[0][1] == 1
    assert outcome(records) == outcome(read_records(tmp_path / "alone"))


@needs_ray
def test_a_tuning_of_which_a_machine_is_lost_has_the_result_of_one_process(two, tmp_path, monkeypatch):
    task, encoder = folder_of(tmp_path / "faces", ["blue", "green", "red"] * 8), tiny_encoder(tmp_path / "encoder")
    settings = {"candidates": [STUCK, LEARNING], "epochs": 2}
    alone = tuned(tmp_path / "alone", task, encoder, **settings)
    taken, first_done = [], RayTasks.first_done

    def losing(tasks):
        taken.append(len(tasks))
        if len(taken) == 3:
            two.lose_one()
        return first_done(tasks)

    monkeypatch.setattr(RayTasks, "first_done", losing)
    try:
        shared = tuned(tmp_path / "shared", task, encoder, engine=RayEngine(workers=2), **settings)
    finally:
        two.add_one()
    assert max(taken) == 2
    assert {tried.epochs for tried in shared.tried} == {1, 2}  # both rungs
    assert sorted(told(shared)) == sorted(told(alone))
    assert (shared.chosen.name, shared.verdict) == (alone.chosen.name, alone.verdict)
    records = [read_records(result.folder / "trials") for result in (shared, alone)]
    assert outcome(records[0]) == outcome(records[1])
    assert len(records[0]) == len(records[1]) == 14
    monkeypatch.setattr(RayTasks, "start", None)
    assert told(tuned(tmp_path / "shared", task, encoder, engine="ray", **settings)) == told(shared)


@needs_ray
def test_the_command_goes_on_with_ray_where_a_process_alone_stopped(two, tmp_path, capsys):
    plan = plan_of(tmp_path)
    write_plan(plan, tmp_path / "plan.yaml")
    folder, half = tmp_path / "run", Worklist(plan, tmp_path / "run", say=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        half.work(_stop_after(half, 14))
    before = (folder / "results.jsonl").read_bytes()
    command = ["reproduce", "--plan", str(tmp_path / "plan.yaml"), "--output_dir", str(folder), "--engine", "ray"]
    assert main([*command, "--ray_workers", "1"]) == 0
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    assert len(read_records(folder)) == 16
    assert "16 of 16 trainings" in capsys.readouterr().out


def _stop_after(worklist: Worklist, count: int):
    def stop(progress, doing):
        if progress.done >= count:
            raise KeyboardInterrupt

    return stop


@needs_ray
def test_a_search_in_workers_finds_what_one_process_finds(two, tmp_path):
    tiny_encoder(tmp_path / "encoder")
    alone = search(tmp_path / "alone")
    shared = search(tmp_path / "shared", engine=RayEngine(workers=2))
    assert [(trial.index, trial.values, trial.score) for trial in shared.trials] == [
        (trial.index, trial.values, trial.score) for trial in alone.trials
    ]
    best = [json.loads((tmp_path / name / "best.json").read_text()) for name in ("alone", "shared")]
    assert best[0] == best[1]


def test_a_worker_with_other_data_makes_no_record(tmp_path):
    plan = plan_of(tmp_path)
    worklist = Worklist(plan, tmp_path / "run", say=lambda line: None)
    run = worklist.searches(plan.tasks[0], plan.encoders[0], plan.methods[0])[0]
    with pytest.raises(DataNotFoundError, match=r"^affect, tiny, .* are not those of the process that shares out"):
        worklist.trained([run], ["0" * 16])


@needs_ray
def test_a_search_with_a_pruner_is_not_handed_to_workers(tmp_path):
    with pytest.raises(ConfigError, match=r"leave out `pruner='median'`"):
        search_settings(TASK, "small-face", tmp_path, space=SMALL, pruner="median", engine="ray")


def test_without_ray_the_commands_name_the_extra(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    with pytest.raises(MissingExtraError, match=r"A search with `engine='ray'` needs ray"):
        search_settings(TASK, "small-face", tmp_path, space=SMALL, engine="ray")
    assert main(["reproduce", "--tasks", "painted_faces", "--output_dir", str(tmp_path), "--engine", "ray"]) != 0
    assert "A study with `engine='ray'` needs ray: pip install 'ciao_peft[distributed]'." in capsys.readouterr().err
    assert not (tmp_path / "plan.yaml").exists()
    with pytest.raises(MissingExtraError, match=r"A tuning with `engine='ray'` needs ray"):
        tune(TASK, "small-face", tmp_path, engine="ray")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ray_workers", "2"], "give `--engine ray` as well"),
        pytest.param(["--engine", "ray", "--num_processes", "2"], "without `--num_processes`", marks=needs_ray),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, tmp_path, capsys):
    for command in (["reproduce", "--tasks", "painted_faces"], ["tune", "--dataset", "painted_faces"]):
        assert main([*command, "--output_dir", str(tmp_path), *flags]) != 0
        assert message in capsys.readouterr().err


@needs_ray
def test_a_tuning_is_not_shared_out_twice(tmp_path):
    with pytest.raises(ConfigError, match=r"leave out `num_processes=2`"):
        tune(TASK, "small-face", tmp_path, num_processes=2, engine="ray")
    assert not list(tmp_path.iterdir())
