"""Checkpoints and history of the scripts that train encoders: whole or not there, and gone on with as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ciao_peft.encoders.pretraining.checkpoints import (
    describe_training,
    newest_checkpoint,
    resume_training,
    save_training_checkpoint,
)
from ciao_peft.errors import TrainingError
from helpers.places import REPOSITORY


@pytest.fixture
def trained():
    """A layer that an accelerator knows, and its only weight's value as a function of the epoch."""
    accelerator, layer = Accelerator(cpu=True), nn.Linear(1, 1, bias=False)
    return accelerator, accelerator.prepare(layer)


SETTINGS = {"learning_rate": 0.1, "channels": None, "num_train_epochs": 3, "cpu": True, "output_dir": "here"}


def description(trained, faces=6, **changes):
    return describe_training(trained[0], SETTINGS | changes, faces=faces)


def history(epochs):
    return [{"epoch": epoch + 1, "loss": 1 / (epoch + 1)} for epoch in range(epochs)]


def at_epoch(trained, folder, epochs):
    accelerator, layer = trained
    nn.init.constant_(layer.weight, epochs)
    save_training_checkpoint(accelerator, folder, history(epochs), description(trained))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_the_newest_checkpoint_is_kept_and_its_history_lies_beside_it(trained, tmp_path):
    for epochs in (1, 2, 3):
        at_epoch(trained, tmp_path, epochs)
        assert names(tmp_path) == [f"checkpoint-{epochs}", "history.json"]
        assert json.loads((tmp_path / "history.json").read_text()) == history(epochs)


def test_a_run_goes_on_from_weights_and_history_of_the_newest_checkpoint(trained, tmp_path, capsys):
    accelerator, layer = trained
    assert resume_training(accelerator, tmp_path, description(trained)) == []
    assert newest_checkpoint(tmp_path) is None
    at_epoch(trained, tmp_path, 2)
    nn.init.constant_(layer.weight, 77)
    assert resume_training(accelerator, tmp_path, description(trained)) == history(2)
    assert layer.weight.item() == 2
    told = capsys.readouterr().out
    assert "resumed from" in told
    assert "cannot be compared" not in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "'learning_rate' was 0.1 and is 0.5. Start"),
        ({"channels": [4, 8]}, r"'channels' was None and is \[4, 8\]. Start"),
        ({"faces": 9}, "'faces' was 6 and is 9. Start"),
        ({"learning_rate": 1, "faces": 9}, "'learning_rate' was 0.1 and is 1; 'faces' was 6 and is 9. Start"),
        ({"warmup_steps": 3}, "'warmup_steps' was None and is 3. Start"),
    ],
)
def test_a_run_of_other_settings_or_faces_is_not_gone_on_with(changes, message, trained, tmp_path):
    accelerator, layer = trained
    at_epoch(trained, tmp_path, 2)
    nn.init.constant_(layer.weight, 77)
    with pytest.raises(TrainingError, match=rf"cannot go on: {message} it as it was .* another --output_dir"):
        resume_training(accelerator, tmp_path, description(trained, **changes))
    assert layer.weight.item() == 77
    assert names(tmp_path) == ["checkpoint-2", "history.json"]


def test_a_run_of_another_number_of_processes_is_not_gone_on_with(trained, tmp_path):
    at_epoch(trained, tmp_path, 2)
    with pytest.raises(TrainingError, match="'num_processes' was 1 and is 2"):
        resume_training(trained[0], tmp_path, description(trained) | {"num_processes": 2})


def test_more_epochs_another_device_and_other_folders_do_not_stop_a_run_from_going_on(trained, tmp_path):
    at_epoch(trained, tmp_path, 2)
    changed = description(trained, num_train_epochs=9, cpu=False, output_dir="there")
    assert resume_training(trained[0], tmp_path, changed) == history(2)


def test_a_checkpoint_that_does_not_say_what_it_was_made_of_goes_on_and_says_so(trained, tmp_path, capsys):
    """As they were written before checkpoints said it."""
    at_epoch(trained, tmp_path, 2)
    (tmp_path / "checkpoint-2" / "ingredients.json").unlink()
    assert resume_training(trained[0], tmp_path, description(trained, learning_rate=0.5)) == history(2)
    told = capsys.readouterr().out
    assert "checkpoint-2' does not say what it was made of: settings and faces cannot be compared" in told


def test_the_tenth_checkpoint_is_newer_than_the_ninth_and_other_folders_are_none(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-unfinished", "checkpoint-x", "other-11"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"


def test_checkpoints_that_a_killed_run_left_over_go_with_the_next(trained, tmp_path):
    at_epoch(trained, tmp_path, 2)
    (tmp_path / "checkpoint-1").mkdir()  # killed after the second was named, before the first was removed
    (tmp_path / "checkpoint-best").mkdir()
    at_epoch(trained, tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-best", "history.json"]


def test_a_history_that_is_no_json_leaves_the_checkpoint_before(trained, tmp_path):
    at_epoch(trained, tmp_path, 1)
    accelerator, _ = trained
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_training_checkpoint(accelerator, tmp_path, [*history(1), {"loss": float("nan")}], description(trained))
    assert newest_checkpoint(tmp_path).name == "checkpoint-1"
    assert resume_training(accelerator, tmp_path, description(trained)) == history(1)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from accelerate import Accelerator
    from ciao_peft.encoders.pretraining.checkpoints import describe_training, save_training_checkpoint

    accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
    description = describe_training(accelerator, {})
    layer = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
    torch.nn.init.constant_(layer.weight, 1)
    save_training_checkpoint(accelerator, folder, [{"epoch": 1}], description)
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    torch.nn.init.constant_(layer.weight, 2)
    save_training_checkpoint(accelerator, folder, [{"epoch": 1}, {"epoch": 2}], description)
"""


def test_a_run_killed_before_its_checkpoint_has_a_name_goes_on_from_the_one_before(trained, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-unfinished", "history.json"]
    accelerator, layer = trained
    assert resume_training(accelerator, tmp_path, describe_training(accelerator, {})) == [{"epoch": 1}]
    assert layer.weight.item() == 1
    at_epoch(trained, tmp_path, 2)  # over what lies unfinished
    torch.nn.init.zeros_(layer.weight)
    assert resume_training(accelerator, tmp_path, description(trained)) == history(2)
    assert layer.weight.item() == 2
    assert names(tmp_path) == ["checkpoint-2", "history.json"]
