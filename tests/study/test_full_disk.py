"""Records and plans where the disk refuses: said, and what was there stays."""

from __future__ import annotations

import os

import pytest

from ciao_peft.errors import ConfigError, RecordError
from ciao_peft.study import append_record, plan_from_flags, read_plan, read_records
from ciao_peft.study.plan_file import save_plan
from helpers import studies


def full(*_, **__):
    raise OSError(28, "No space left on device")


def plan(seeds):
    return plan_from_flags(["fer=data"], ["small-face"], ["decision layer"], seeds=seeds)


def test_a_record_that_finds_no_room_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    first, second = studies.records({"decision layer": [0.5, 0.6]})
    append_record(tmp_path / "results.jsonl", first)
    content = (tmp_path / "results.jsonl").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match=r"results\.jsonl' cannot be written: No space .*Nothing was added"):
            append_record(tmp_path / "results.jsonl", second)
    assert (tmp_path / "results.jsonl").read_bytes() == content
    append_record(tmp_path / "results.jsonl", second)
    assert len(read_records(tmp_path)) == 2


def test_a_plan_that_finds_no_room_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    save_plan(plan(2), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"plan\.yaml' cannot be written: No space left on device\. Make room"):
            save_plan(plan(3), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
    assert read_plan(tmp_path / "plan.yaml") == plan(2)
    save_plan(plan(3), tmp_path / "new" / "study")
    assert [path.name for path in (tmp_path / "new" / "study").iterdir()] == ["plan.yaml"]
