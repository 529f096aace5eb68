"""Plans, methods and records that somebody wrote by hand, or that are no files."""

from __future__ import annotations

import json
import os

import pytest

from ciao_peft.errors import ConfigError, RecordError
from ciao_peft.study.plan_file import plan_from_dict, read_plan
from ciao_peft.study.presets.methods import method_from_file
from ciao_peft.study.records import Record, Results, read_records

PLAN = {"tasks": {"fer": {"data_dir": "data"}}, "encoders": ["small-face"], "methods": ["decision layer"]}
RECORD = Record(
    key="0" * 16, task="t", dataset="d", encoder="e", encoder_revision="r", method="m", kind="network", seed=0,
    split="test", metric="accuracy", scores={"accuracy": 0.5},
).to_dict()  # fmt: skip


@pytest.mark.parametrize("name", ["tasks", "encoders", "methods"])
@pytest.mark.parametrize("value", [None, [], {}, 3, "x", [{}], [[1]], {3: None}, [None]])
def test_a_plan_without_names_is_refused(name, value):
    with pytest.raises(ConfigError) as caught:
        plan_from_dict(PLAN | {name: value})
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize("seeds", [10_000_000, 10**400, -1, True, [1.5], "3", {}, list(range(200_000))])
def test_a_plan_has_a_bounded_number_of_trainings(seeds):
    with pytest.raises(ConfigError) as caught:
        plan_from_dict(PLAN | {"seeds": seeds})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("x"), os.mkdir]
)
@pytest.mark.parametrize(("read", "error"), [(read_plan, ConfigError), (method_from_file, ConfigError)])
def test_what_is_no_file_is_refused(make, read, error, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(error, match="file"):
        read(tmp_path / "file")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_records_that_are_no_file_are_refused(make, tmp_path):
    make(tmp_path / "results.jsonl")
    with pytest.raises(RecordError, match=r"results\.jsonl"):
        read_records(tmp_path)


@pytest.mark.parametrize("name", [*RECORD])
@pytest.mark.parametrize("value", [True, [], {}, {"accuracy": "x"}, 1e400])
def test_a_record_with_a_value_of_another_type_is_refused_or_whole(name, value, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(RECORD | {name: value}) + "\n" + '{"torn')
    try:
        (record,) = read_records(path)
    except RecordError as error:
        assert "line 1" in str(error)
    else:
        assert isinstance(record.score, float)


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "tesu"},
        {"split": ""},
        {"arguments": {"learning_rate": [0.1]}},
        {"arguments": {"mask_learning_rate": {"a": 1}}},
        {"arguments": {"encoder_learning_rate": "fast"}},
        {"samples": {"train": {"a": 1}}},
        {"samples": {"scored": [3]}},
        {"parameters": {"trained": "many"}},
        {"scores": {"accuracy": 10**400}},
        {"epochs": 10**400},
        {"seconds": -1.0},
        {"history": [3]},
        {"history": [{"epoch": "1"}]},
        {"decay_starts": ["x"]},
        {"confusion": [[1, 2], [3]]},
        {"confusion": [1, 2]},
        {"confusion": [["x"]]},
        {"labels": [["happy"]]},
    ],
    ids=str,
)
def test_a_record_that_no_report_could_count_with_is_refused_with_its_line(changes, tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [json.dumps(RECORD), json.dumps({**RECORD, **changes})]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordError, match="line 2"):
        read_records(path)


def test_results_without_an_end_are_refused_at_their_first_line(tmp_path):
    with (tmp_path / "results.jsonl").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(RecordError, match="line 1: it is longer than"):
        read_records(tmp_path)
    with pytest.raises(RecordError, match="line 1: it is longer than"):
        Results(tmp_path / "results.jsonl").update()


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "results.jsonl"
    results, text = Results(path), json.dumps(RECORD) + "\n"
    path.write_text(text + text[:40])
    assert len(results.update()) == 1
    path.write_text(text + text + text)
    assert len(results.update()) == 2
    assert len(results.records) == 3
