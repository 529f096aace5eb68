"""Which checkpoint a training goes on from, which ones stay, and where the best adapter is then."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from ciao_peft import CIAOTrainer, CIAOTrainingArguments
from ciao_peft.errors import TrainingError
from ciao_peft.saving.adapter_folder import load_adapter
from ciao_peft.trainer.checkpoint import BEST_FILE, STATE_FILE, checkpoint_folders
from helpers.training import assert_same, faces, make_model, scripted, weights


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
    del state["files"][BEST_FILE], state["place_in_order"]
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
