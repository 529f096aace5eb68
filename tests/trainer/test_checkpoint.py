"""What survives a kill, which checkpoint a training goes on from, and which ones stay."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from safetensors.torch import load_file

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import (
    TrainingError,
)
from ciao_peft.saving.adapter_folder import CONFIG_FILE, load_adapter
from ciao_peft.trainer.checkpoint import BEST_FILE, STATE_FILE, checkpoint_folders, clean_up
from helpers import killed
from helpers.fakes import tiny_backbone
from helpers.processes import run
from helpers.training import assert_same, faces, make_model, make_trainer, scripted, weights


def trainer_in(folder, scores=(1, 5, 3, 4), on_log=None, **changes):
    """Two updates in each of four epochs, with dropout; the best evaluation is the second one."""
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 12, "save_strategy": "epoch", "logging_steps": 1}
    settings |= {"metric_for_best_model": "score", "load_best_model_at_end": True, "output_dir": folder}
    settings |= {"lr_scheduler_type": "constant"}
    arguments = CIAOTrainingArguments(**settings | changes)
    return CIAOTrainer(make_model(), arguments, compute_metrics=scripted(scores), on_log=on_log)


def plain_in(folder, **changes):
    """The same without evaluations."""
    return trainer_in(folder, load_best_model_at_end=False, **changes)


def names(folder):
    return [path.name for path in checkpoint_folders(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that ended at its best, and the folder it left."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_in(folder)
    trainer.train(faces(), faces(6))
    return folder, weights(trainer.model)


# -- the best adapter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("where", ["another folder", "no folder"])
def test_a_training_resumed_elsewhere_ends_at_the_best_of_both_parts(step, where, whole, tmp_path):
    folder, best = whole
    scores = {4: (3, 4), 6: (4,)}[step]
    changes = {"output_dir": tmp_path} if where == "another folder" else {"output_dir": None, "save_strategy": "no"}
    resumed = trainer_in(None, scores, resume_from_checkpoint=str(folder / f"checkpoint-{step}"), **changes)
    output = resumed.train(faces(), faces(6))
    assert (output.metrics["best_step"], output.metrics["best_score"]) == (4, 5)
    assert_same(weights(resumed.model), best)
    if where == "another folder":
        kept = load_adapter(tmp_path / "best")
        assert_same(dict(sorted(kept.tensors.items())), dict(sorted(best.items())))
        assert (kept.training["global_step"], kept.training["eval_score"]) == (4, 5)


def test_the_best_adapter_of_a_longer_training_is_not_taken_for_that_of_an_older_checkpoint(tmp_path):
    trainer_in(tmp_path, (1, 2, 1, 1, 9), num_train_epochs=5).train(faces(), faces(6))
    assert load_adapter(tmp_path / "best").training["global_step"] == 10
    second = load_adapter(tmp_path / "checkpoint-4").tensors
    resumed = trainer_in(tmp_path, (0,), resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.train(faces(), faces(6)).metrics["best_step"] == 4
    assert_same(dict(sorted(weights(resumed.model).items())), dict(sorted(second.items())))
    assert load_adapter(tmp_path / "best").training["global_step"] == 4


def without_its_best(whole, tmp_path):
    """A checkpoint as it was before it held the best adapter."""
    shutil.copytree(whole[0], tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint-6"
    (checkpoint / BEST_FILE).unlink()
    state = json.loads((checkpoint / STATE_FILE).read_text())
    del state["files"][BEST_FILE], state["files"][CONFIG_FILE], state["place_in_order"], state["digest"]
    state["format_version"] = 1
    (checkpoint / STATE_FILE).write_text(json.dumps(state))
    return checkpoint


def test_a_checkpoint_of_an_earlier_version_finds_the_best_adapter_beside_it(whole, tmp_path):
    checkpoint = without_its_best(whole, tmp_path)
    resumed = trainer_in(tmp_path / "new", (4,), resume_from_checkpoint=str(checkpoint))
    resumed.train(faces(), faces(6))
    assert_same(weights(resumed.model), whole[1])


@pytest.mark.parametrize("beside", ["missing", "holds that after update 8"])
def test_without_its_best_adapter_a_training_is_not_resumed(beside, whole, tmp_path):
    checkpoint = without_its_best(whole, tmp_path)
    best = checkpoint.parent / "best"
    shutil.rmtree(best)
    if beside != "missing":
        shutil.copytree(checkpoint.parent / "checkpoint-8", best)
    resumed = trainer_in(tmp_path / "new", (4,), resume_from_checkpoint=str(checkpoint))
    before = weights(resumed.model)
    with pytest.raises(TrainingError, match=rf"at its best after update 4; .*{beside}\. Resume from a checkpoint"):
        resumed.train(faces(), faces(6))
    assert_same(weights(resumed.model), before)


def test_a_damaged_best_adapter_is_refused(whole, tmp_path):
    shutil.copytree(whole[0] / "checkpoint-6", tmp_path / "checkpoint-6")
    content = bytearray((tmp_path / "checkpoint-6" / BEST_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "checkpoint-6" / BEST_FILE).write_bytes(content)
    with pytest.raises(TrainingError, match=r"best\.safetensors' does not have the checksum"):
        trainer_in(tmp_path, (4,), resume_from_checkpoint=True).train(faces(), faces(6))


# -- the order of checkpoints -----------------------------------------------------------------------------------------


def test_a_training_resumed_from_an_older_checkpoint_keeps_what_it_writes(tmp_path):
    plain_in(tmp_path).train(faces())
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    seen = []
    changes = {"save_total_limit": 2, "resume_from_checkpoint": str(tmp_path / "checkpoint-2")}
    plain_in(tmp_path, on_log=lambda entry: seen.append((entry["step"], names(tmp_path))), **changes).train(faces())
    at = {step: there for step, there in seen if step % 2}  # one update after each checkpoint
    assert at[5] == ["checkpoint-8", "checkpoint-4"]  # not those of the largest number
    assert at[7] == ["checkpoint-4", "checkpoint-6"]
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]


def test_after_ctrl_c_among_older_checkpoints_a_training_goes_on_from_its_own(tmp_path):
    plain_in(tmp_path).train(faces())

    def on_log(entry):
        if entry["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"Saved '.*checkpoint-3'"):
        plain_in(tmp_path, save_strategy="no", on_log=on_log).train(faces())
    assert names(tmp_path)[-1] == "checkpoint-3"
    steps = []
    plain_in(tmp_path, resume_from_checkpoint=True, on_log=lambda entry: steps.append(entry["step"])).train(faces())
    assert steps[0] == 4


def test_checkpoints_of_an_earlier_version_are_in_the_order_of_their_numbers(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for path in (tmp_path / "run").glob(f"checkpoint-*/{STATE_FILE}"):
        state = json.loads(path.read_text())
        del state["place_in_order"]
        path.write_text(json.dumps(state))
    (tmp_path / "run" / "checkpoint-8").rename(tmp_path / "run" / "checkpoint-10")
    assert names(tmp_path / "run") == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-10"]


# -- as an adapter ----------------------------------------------------------------------------------------------------


def test_the_card_of_a_checkpoint_names_its_folder(whole):
    folder = whole[0] / "checkpoint-4"
    card = (folder / "README.md").read_text()
    assert "# checkpoint-4" in card.splitlines()
    assert f'"{folder}"' in card
    assert ".tmp" not in card.replace(str(folder), "")


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_killed_training_goes_on_to_the_same_weights_bit_for_bit(tmp_path):
    data = killed.faces()
    whole = killed.training(tmp_path / "whole")
    whole.train(data, data[:6])
    done = run("killed", "train", tmp_path / "killed")
    assert done.returncode == -signal.SIGKILL
    found = [path.name for path in checkpoint_folders(tmp_path / "killed")]
    assert found == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    resumed = killed.training(tmp_path / "killed", resume=True)
    resumed.train(data, data[:6])
    assert_same(weights(resumed.model), weights(whole.model))
    last = [load_file(tmp_path / name / "checkpoint-9" / "adapter_model.safetensors") for name in ("whole", "killed")]
    assert_same(*last)
    moments = [load_file(tmp_path / name / "checkpoint-9" / "optimizer.safetensors") for name in ("whole", "killed")]
    assert_same(*moments)
    logs = [[e for e in t.log_history if "train_runtime" not in e] for t in (whole, resumed)]
    assert logs[0] == logs[1]
    # A checkpoint is an adapter's folder as well.
    CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "killed" / "checkpoint-4")


class Interrupted(list):
    """Ctrl-C while the eleventh face of the second epoch is read: in the middle of update 5."""

    reads = 0

    def __getitem__(self, index):
        if isinstance(index, int):
            self.reads += 1
            if self.reads == 1 + 22 + 22 + 11:  # a first look, all labels, one epoch
                os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(index)


def test_ctrl_c_waits_for_the_update_saves_it_and_says_where(tmp_path, capsys):
    data = killed.faces()
    changes = {"save_strategy": "no", "save_steps": None, "feature_cache": "never", "class_balanced_batches": False}
    whole = killed.training(tmp_path / "whole", **changes)
    whole.train(data, data[:6])
    handler = signal.getsignal(signal.SIGINT)
    stopped = killed.training(tmp_path / "run", **changes)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped after update 5 of 9. Saved '.*checkpoint-5'"):
        stopped.train(Interrupted(data), data[:6])
    assert "checkpoint-5" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = killed.training(tmp_path / "run", resume="auto", **changes)
    resumed.train(data, data[:6])
    assert_same(weights(resumed.model), weights(whole.model))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    data = killed.faces()
    killed.training(folder).train(data, data[:6])
    return folder


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"learning_rate": 0.5}, None, "'learning_rate' is 0.001 there and 0.5 here"),
        ({"per_device_train_batch_size": 4}, None, "'per_device_train_batch_size' is 8 there and 4 here"),
        ({"warmup_steps": 2}, None, "'warmup_steps' is 0 there and 2 here"),
        ({}, killed.faces(20), "'num_samples' is 22 there and 20 here"),
        ({}, [f | {"labels": (n + 1) % 3} for n, f in enumerate(killed.faces())], "'labels' is"),
    ],
)
def test_training_is_not_resumed_as_something_else(checkpoints, changes, data, message):
    data = killed.faces() if data is None else data
    trainer = killed.training(checkpoints, resume=str(checkpoints / "checkpoint-4"), **changes)
    before = weights(trainer.model)
    with pytest.raises(TrainingError) as caught:
        trainer.train(data, data[:6])
    assert message in str(caught.value)
    assert_same(weights(trainer.model), before)


def test_an_incomplete_or_damaged_checkpoint_is_not_resumed(checkpoints, tmp_path):
    import shutil

    shutil.copytree(checkpoints, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-9" / "trainer_state.json").unlink()
    assert checkpoint_folders(tmp_path / "run")[-1].name == "checkpoint-8"
    data = killed.faces()
    with pytest.raises(TrainingError, match="no complete checkpoint"):
        killed.training(tmp_path / "run", resume=str(tmp_path / "run" / "checkpoint-9")).train(data, data)
    optimizer = tmp_path / "run" / "checkpoint-8" / "optimizer.safetensors"
    content = bytearray(optimizer.read_bytes())
    content[-1] ^= 1
    optimizer.write_bytes(content)
    with pytest.raises(TrainingError, match=r"checksum.*damaged"):
        killed.training(tmp_path / "run", resume=True).train(data, data)
    with pytest.raises(TrainingError, match=r"There is no complete checkpoint"):
        killed.training(tmp_path / "empty", resume=True).train(data, data)


def test_only_the_newest_checkpoints_are_kept_and_remains_of_a_kill_are_cleared(tmp_path):
    (tmp_path / ".checkpoint-2.tmp").mkdir()
    make_trainer(output_dir=tmp_path, save_strategy="epoch", save_total_limit=2, num_train_epochs=4).train(faces())
    assert sorted(p.name for p in tmp_path.glob("*checkpoint*")) == ["checkpoint-12", "checkpoint-9"]


def test_a_new_training_does_not_mix_its_checkpoints_with_an_old_ones(tmp_path):
    make_trainer(output_dir=tmp_path, save_strategy="epoch", num_train_epochs=2).train(faces())
    before = sorted(path.name for path in tmp_path.iterdir())
    again = make_trainer(output_dir=tmp_path, save_strategy="epoch", num_train_epochs=1)
    with pytest.raises(
        TrainingError, match=r"holds checkpoint-\d+ of an earlier training.*resume_from_checkpoint=True"
    ):
        again.train(faces())
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_kill_leaves_of_a_checkpoint_that_was_to_go_goes_with_the_next(tmp_path, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda path, ignore_errors: killed(path))
        with pytest.raises(KeyboardInterrupt):
            clean_up(tmp_path, keep=1)
    left = next(path for path in tmp_path.iterdir() if path.name != "checkpoint-2")
    (left / "trainer_state.json").unlink()  # half of it is gone
    clean_up(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
