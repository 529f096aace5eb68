"""A checkpoint of which anything was altered is not gone on from."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch

from ciao_peft.errors import CIAOError, TrainingError
from ciao_peft.saving.adapter_folder import CONFIG_FILE
from ciao_peft.trainer.checkpoint import OPTIMIZER_FILE, STATE_FILE, AdapterCheckpoints
from helpers.fakes import bits, wrap

STATE = {
    "global_step": 2,
    "place_in_order": 1,
    "record": {"arguments": {"seed": 42, "learning_rate": 0.001}, "num_samples": 22},
    "best": {"metric": 0.5, "step": 1},
    "evaluations_without_gain": 0,
    "stopped_early": False,
    "window": [1.0, 1.0, 0.0, 1],
    "sums": [2.0, 2.0, 0.0, 2],
    "scaler": None,
    "log_history": [{"step": 1, "epoch": 0.5, "loss": 1.25}],
}


@pytest.fixture
def checkpoints():
    return AdapterCheckpoints(wrap(), "default")


@pytest.fixture
def folder(checkpoints, tmp_path):
    best = bits(checkpoints.model.adapters["default"])
    checkpoints.save(tmp_path / "checkpoint-2", {"head.0.bias/exp_avg": torch.ones(16)}, best, STATE)
    return tmp_path / "checkpoint-2"


def loaded(checkpoints, folder):
    return checkpoints.load(folder, STATE["record"], 10, True)


def test_a_whole_checkpoint_gives_its_state(checkpoints, folder):
    state, tensors, best, _ = loaded(checkpoints, folder)
    told = {name: getattr(state, name) for name in STATE if name not in ("best", "place_in_order")}
    assert told == {name: STATE[name] for name in told}
    assert (state.best_value, state.best_step) == (0.5, 1)
    assert set(tensors) == {"head.0.bias/exp_avg"} and best is not None


def test_no_flipped_bit_of_the_state_is_gone_on_from_in_silence(checkpoints, folder):
    path = folder / STATE_FILE
    content, whole = path.read_bytes(), loaded(checkpoints, folder)[0]
    step = content.index(b'"global_step": 2') + len(b'"global_step": ')
    chosen = [8 * step, *random.Random(0).sample(range(8 * len(content)), 2000)]  # the first one makes 3 of 2
    for bit in chosen:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            state = loaded(checkpoints, folder)[0]
        except CIAOError:
            continue
        assert state == whole, bit
        assert bit != chosen[0]


@pytest.mark.parametrize("name", [CONFIG_FILE, OPTIMIZER_FILE])
def test_a_file_of_another_checkpoint_is_refused(name, checkpoints, folder):
    other = AdapterCheckpoints(checkpoints.model, "default")
    other.save(
        folder.with_name("checkpoint-3"), {"head.0.bias/exp_avg": torch.zeros(16)}, None, STATE | {"global_step": 3}
    )
    shutil.copy(folder.with_name("checkpoint-3") / name, folder / name)
    with pytest.raises(TrainingError, match=rf"{name}'.*(is not the one|does not have the checksum)"):
        loaded(checkpoints, folder)


def test_a_checkpoint_of_before_has_no_digest_and_is_gone_on_from(checkpoints, folder):
    state = json.loads((folder / STATE_FILE).read_text())
    del state["digest"], state["files"][CONFIG_FILE]
    (folder / STATE_FILE).write_text(json.dumps(state | {"format_version": 1}))
    assert loaded(checkpoints, folder)[0].global_step == 2
    (folder / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(TrainingError, match="not as it was saved"):
        loaded(checkpoints, folder)


def test_a_checkpoint_of_a_later_version_is_refused(checkpoints, folder):
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps(state | {"format_version": 3}))
    with pytest.raises(TrainingError, match="format version 3; this version reads 2"):
        loaded(checkpoints, folder)
