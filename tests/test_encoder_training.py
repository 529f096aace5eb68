"""Checkpoints and history of the scripts that train encoders: whole or not there, whenever the process dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ciao_peft.encoders.training import newest_checkpoint, resume, save_checkpoint

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def trained():
    """A layer that an accelerator knows, and its only weight's value as a function of the epoch."""
    accelerator, layer = Accelerator(cpu=True), nn.Linear(1, 1, bias=False)
    return accelerator, accelerator.prepare(layer)


def history(epochs):
    return [{"epoch": epoch + 1, "loss": 1 / (epoch + 1)} for epoch in range(epochs)]


def at_epoch(trained, folder, epochs):
    accelerator, layer = trained
    nn.init.constant_(layer.weight, epochs)
    save_checkpoint(accelerator, folder, history(epochs))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_the_newest_checkpoint_is_kept_and_its_history_lies_beside_it(trained, tmp_path):
    for epochs in (1, 2, 3):
        at_epoch(trained, tmp_path, epochs)
        assert names(tmp_path) == [f"checkpoint-{epochs}", "history.json"]
        assert json.loads((tmp_path / "history.json").read_text()) == history(epochs)


def test_a_run_goes_on_from_weights_and_history_of_the_newest_checkpoint(trained, tmp_path, capsys):
    accelerator, layer = trained
    assert resume(accelerator, tmp_path) == []
    assert newest_checkpoint(tmp_path) is None
    at_epoch(trained, tmp_path, 2)
    nn.init.constant_(layer.weight, 77)
    assert resume(accelerator, tmp_path) == history(2)
    assert layer.weight.item() == 2
    assert "resumed from" in capsys.readouterr().out


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
        save_checkpoint(accelerator, tmp_path, [*history(1), {"loss": float("nan")}])
    assert newest_checkpoint(tmp_path).name == "checkpoint-1"
    assert resume(accelerator, tmp_path) == history(1)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from accelerate import Accelerator
    from ciao_peft.encoders.training import save_checkpoint

    accelerator, folder = Accelerator(cpu=True), Path(sys.argv[1])
    layer = accelerator.prepare(torch.nn.Linear(1, 1, bias=False))
    torch.nn.init.constant_(layer.weight, 1)
    save_checkpoint(accelerator, folder, [{"epoch": 1}])
    Path.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    torch.nn.init.constant_(layer.weight, 2)
    save_checkpoint(accelerator, folder, [{"epoch": 1}, {"epoch": 2}])
"""


def test_a_run_killed_before_its_checkpoint_has_a_name_goes_on_from_the_one_before(trained, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-unfinished", "history.json"]
    accelerator, layer = trained
    assert resume(accelerator, tmp_path) == [{"epoch": 1}]
    assert layer.weight.item() == 1
    at_epoch(trained, tmp_path, 2)  # over what lies unfinished
    torch.nn.init.zeros_(layer.weight)
    assert resume(accelerator, tmp_path) == history(2)
    assert layer.weight.item() == 2
    assert names(tmp_path) == ["checkpoint-2", "history.json"]
