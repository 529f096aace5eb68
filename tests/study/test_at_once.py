"""A study whose alike trainings run at once gives the records of one that trains them one by one.

The tests stack on the CPU, where a study itself trains one by one.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from ciao_peft.adapters import stack
from ciao_peft.study import Plan, Record, read_records
from ciao_peft.study import training as study_training
from ciao_peft.study.search import SearchSpace
from ciao_peft.study.worklist import Worklist
from ciao_peft.trainer.many import loop
from helpers.searches import search
from helpers.studies import plan_of


@pytest.fixture
def at_once(monkeypatch):
    """Switches stacks on; the list gets the number of trainings of each loop."""
    counts: list[int] = []
    init = loop.StackedLoop.__init__

    def counted(self, model, members):
        counts.append(len(members))
        init(self, model, members)

    def switch():
        monkeypatch.setattr(stack, "STACKED_ON", {"cpu"})
        return counts

    monkeypatch.setattr(loop.StackedLoop, "__init__", counted)
    return switch


@pytest.fixture
def plan(tmp_path) -> Plan:
    """One task, the networks of the plan, three seeds, two rates with two seeds each."""
    whole = plan_of(tmp_path)
    return replace(whole, tasks=whole.tasks[:1], seeds=(0, 1, 2), search_rates=2, search_seeds=2)


def records_of(plan, folder) -> dict[str, Record]:
    progress = Worklist(plan, folder, say=lambda line: None).work()
    assert progress.failed == {}
    return {record.key: record for record in read_records(folder)}


def assert_same(record: Record, other: Record) -> None:
    told = ("seconds", "time", "scores", "history", "fold_scores", "decay_starts")
    assert replace(record, **dict.fromkeys(told)) == replace(other, **dict.fromkeys(told))
    assert record.scores == pytest.approx(other.scores, abs=1e-4)
    assert record.decay_starts == pytest.approx(other.decay_starts)
    for entry, alone in zip(record.history, other.history, strict=True):
        assert entry == pytest.approx(alone, rel=1e-3, abs=1e-4)


def test_records_are_those_of_trainings_one_by_one(plan, tmp_path, at_once):
    alone = records_of(plan, tmp_path / "alone")
    counts = at_once()
    together = records_of(plan, tmp_path / "together")
    assert sorted(counts) == [2, 2, 2, 2, 3, 3]  # of each method the rates of a seed and of the other, then the seeds
    assert together.keys() == alone.keys()
    for key, record in together.items():
        assert_same(record, alone[key])


def test_what_another_process_has_claimed_is_left_to_it(plan, tmp_path, at_once):
    counts = at_once()
    plan = replace(plan, methods=plan.methods[:1], search_rates=0)
    worklist, said = Worklist(plan, tmp_path / "run", say=lambda line: None), []
    worklist.look()
    runs = list(worklist._open_runs())
    claims = tmp_path / "run" / "claims"
    claims.mkdir(parents=True)
    with FileLock(claims / f"{worklist._training(runs[1]).key}.lock"):
        assert not worklist._train_if_free(runs, lambda progress, doing: said.append(doing))
        assert sorted(record.seed for record in read_records(tmp_path / "run")) == [0, 2]
    assert said[0].endswith("and 1 more")
    assert worklist.work().done == 3
    assert counts == [2]


def test_where_all_at_once_are_too_many_they_train_one_by_one(plan, tmp_path, at_once, monkeypatch):
    at_once()
    plan, tried = replace(plan, methods=plan.methods[:1], search_rates=0), []

    def short_of_memory(model, jobs, *_):
        tried.append(len(jobs))
        raise torch.OutOfMemoryError("too many")

    monkeypatch.setattr(study_training, "train_adapters", short_of_memory)
    assert len(records_of(plan, tmp_path / "run")) == 3
    assert tried == [3]


def test_a_rate_that_diverges_is_a_result_and_ends_no_other(plan, tmp_path, at_once):
    settings = {"optim": "sgd", "max_grad_norm": 0.0}
    method = replace(plan.methods[-1], rate="learning_rate", rates=(1e-3, 1e9), arguments=settings)
    plan = replace(plan, epochs=4.0, methods=(method,), search_rates=2, search_seeds=1, seeds=(0,))
    alone = records_of(plan, tmp_path / "alone")
    counts = at_once()
    together = records_of(plan, tmp_path / "together")
    assert counts == [2]
    assert sum(record.error is not None for record in alone.values()) == 1
    assert {key: record.error is None for key, record in together.items()} == {
        key: record.error is None for key, record in alone.items()
    }


def test_a_search_gives_the_trials_of_one_by_one(tmp_path, at_once):
    space = SearchSpace(hidden_size=(8, 9), batch_size=(8,))
    alone = search(tmp_path / "alone", trials=12, space=space, splits=2)
    counts = at_once()
    together = search(tmp_path / "together", trials=12, space=space, splits=2)
    assert counts, "no two trials were alike"
    assert [trial.values for trial in together.trials] == [trial.values for trial in alone.trials]
    for trial, other in zip(together.trials, alone.trials, strict=True):
        assert trial.score == pytest.approx(other.score, abs=1e-4)
