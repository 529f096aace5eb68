"""Where training writes and the disk refuses: said in time, nothing half-written stays, and training goes on later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import AdapterFileError, TrainingError
from ciao_peft.trainer import checkpoint
from helpers.features import counting
from helpers.training import faces, make_model


def train(folder, **changes):
    values = {"output_dir": str(folder), "num_train_epochs": 2, "per_device_train_batch_size": 12}
    values |= {"save_strategy": "epoch", "report_to": "none", "disable_tqdm": True, "feature_cache": "never"}
    trainer = CIAOTrainer(make_model(), CIAOTrainingArguments(**(values | changes)))
    trainer.train(faces(12))
    return trainer


def full(*_, **__):
    raise OSError(28, "No space left on device")


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("call", ["move_into_place", "save_with_card"])
def test_a_checkpoint_that_finds_no_room_is_told_and_leaves_nothing(call, tmp_path, monkeypatch):
    train(tmp_path / "run")
    before = listing(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, call, full)
        with pytest.raises(
            AdapterFileError, match=r"checkpoint-2' cannot be written: No space left .*save_total_limit"
        ):
            train(tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert listing(tmp_path / "run") == before
    train(tmp_path / "run", resume_from_checkpoint="auto")


def test_a_log_that_finds_no_room_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("ciao_peft.trainer.history.write_file", full)
    with pytest.raises(TrainingError, match=r"trainer_log\.jsonl' cannot be written: No space left on device\. Make"):
        train(tmp_path / "run", report_to="jsonl")


def test_a_training_that_is_over_keeps_no_more_checkpoints_than_it_was_told(tmp_path):
    train(tmp_path / "run")
    assert listing(tmp_path / "run")[:2] == ["checkpoint-1", "checkpoint-2"]
    train(tmp_path / "run", resume_from_checkpoint="auto", save_total_limit=1)
    assert "checkpoint-1" not in listing(tmp_path / "run")
    assert "checkpoint-2" in listing(tmp_path / "run")


def test_a_folder_that_cannot_be_written_is_refused_before_the_trunk_runs(tmp_path, monkeypatch):
    access, rows = os.access, counting(monkeypatch)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and access(path, mode))
    with pytest.raises(
        TrainingError, match=rf"cannot be written: this user may not change '{tmp_path}'\. Give another"
    ):
        train(tmp_path / "new" / "run", feature_cache="disk")
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"cannot be made: '.*file' is no folder"):
        train(tmp_path / "file" / "run")
    assert not rows
    assert listing(tmp_path) == ["file"]
