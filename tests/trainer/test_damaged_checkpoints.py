"""A checkpoint that somebody altered is refused by name, and leaves the model as it was."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import CIAOError, TrainingError
from ciao_peft.saving.digest import DIGEST, digest_of_folder
from ciao_peft.trainer.checkpoint import OPTIMIZER_FILE, STATE_FILE
from helpers.training import assert_same, faces, make_model, weights


def trainer_in(folder, **changes):
    settings = {"max_steps": 3, "per_device_train_batch_size": 12, "save_strategy": "steps", "save_steps": 2}
    settings |= {"output_dir": folder, "logging_steps": 1}
    return CIAOTrainer(make_model(), CIAOTrainingArguments(**settings | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    trainer_in(folder).train(faces())
    return folder / "checkpoint-2"


@pytest.fixture
def checkpoint(made, tmp_path):
    return shutil.copytree(made, tmp_path / "checkpoint-2")


def write_state(checkpoint, state):
    (checkpoint / STATE_FILE).write_text(json.dumps(state))


def resume(checkpoint, **changes):
    trainer = trainer_in(None, save_strategy="no", save_steps=None, resume_from_checkpoint=str(checkpoint), **changes)
    before = copy.deepcopy(weights(trainer.model))
    try:
        trainer.train(faces())
    except CIAOError:
        assert_same(weights(trainer.model), before)
        raise


def places(value, path=()):
    """Every key and index of plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_every_value_of_another_type_is_refused_or_made_no_difference(checkpoint):
    state = json.loads((checkpoint / STATE_FILE).read_text())
    foreign = [(), "text", [], {}, None, -1, 10**30, float("nan"), True, [[]]]
    some = [path for path in places(state) if path[:2] != ("record", "arguments") or len(path) < 3]
    for number, path in enumerate(sorted(some, key=str)):
        changed = copy.deepcopy(state)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        for value in (foreign[number % len(foreign)], foreign[(number * 7 + 3) % len(foreign)]):
            inner[path[-1]] = value
            write_state(checkpoint, changed)
            try:
                resume(checkpoint)
            except TrainingError as error:
                assert len(str(error)) < 4000
        del inner[path[-1]]
        write_state(checkpoint, changed)
        try:
            resume(checkpoint)
        except TrainingError as error:
            assert str(checkpoint) in str(error)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{", b"[" * 100_000, b'{"global_step": 1, "global_step": 2}', b"\xff"]
)
def test_a_state_that_is_no_state_is_refused(content, checkpoint):
    (checkpoint / STATE_FILE).write_bytes(content)
    with pytest.raises(TrainingError, match=STATE_FILE):
        resume(checkpoint)


def alter(checkpoint, change):
    """Changes the optimiser's tensors, and the checksum with them."""
    tensors = load_file(checkpoint / OPTIMIZER_FILE)
    change(tensors)
    save_file(tensors, checkpoint / OPTIMIZER_FILE)
    state = json.loads((checkpoint / STATE_FILE).read_text())
    state["files"][OPTIMIZER_FILE] = hashlib.sha256((checkpoint / OPTIMIZER_FILE).read_bytes()).hexdigest()
    write_state(checkpoint, state | {DIGEST: digest_of_folder(state, state["files"])})


def all_of(moment, new):
    def change(tensors):
        for key in tensors:
            if key.endswith("/" + moment):
                tensors[key] = new(tensors[key])

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # A scalar went through and reached fused Adam, which read beyond it: the process died.
        (all_of("exp_avg", lambda t: torch.tensor(1.0)), r"as torch.float32 of \[\], not of"),
        (all_of("exp_avg_sq", lambda t: torch.tensor(1.0)), r"as torch.float32 of \[\], not of"),
        (all_of("exp_avg", lambda t: t.double()), "as torch.float64 .*, not torch.float32 of"),
        (all_of("exp_avg", lambda t: t * float("nan")), "values that no optimiser has"),
        (all_of("exp_avg_sq", lambda t: -t - 1), "values that no optimiser has"),
        (all_of("step", lambda t: torch.ones(2)), "no finite number of 0 or more"),
        (all_of("step", lambda t: torch.tensor(-1.0)), "no finite number of 0 or more"),
        (all_of("step", lambda t: torch.tensor(float("inf"))), "no finite number of 0 or more"),
        (all_of("step", lambda t: torch.tensor(3)), "no finite number of 0 or more"),
        (lambda tensors: [tensors.pop(key) for key in [*tensors] if key.endswith("avg_sq")], "lacks 'exp_avg_sq' of"),
        (lambda tensors: tensors.update({"head.9.weight/exp_avg": torch.ones(1)}), "does not train"),
        (lambda tensors: tensors.update({next(iter(tensors)) + "x": torch.ones(1)}), "does not train"),
    ],
)
def test_moments_that_this_optimiser_does_not_keep_are_refused(change, says, checkpoint):
    alter(checkpoint, change)
    with pytest.raises(TrainingError, match=says):
        resume(checkpoint)


def test_a_pipe_and_an_endless_file_are_refused(checkpoint):
    for name in (STATE_FILE, OPTIMIZER_FILE):
        path = checkpoint / name
        content = path.read_bytes()
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()):
            path.unlink()
            make(path)
            with pytest.raises(TrainingError):
                resume(checkpoint)
            path.rmdir() if path.is_dir() else path.unlink()
            path.write_bytes(content)
    resume(checkpoint)
