"""What two processes train and store together is what one does alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ciao_peft import CIAOTrainer, cache_features
from ciao_peft.trainer.checkpoint import checkpoint_folders
from helpers import two_processes
from helpers.processes import run
from helpers.training import weights


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes left; their exit status says nothing, as an abort at the exit follows finished work."""
    folder = tmp_path_factory.mktemp("together")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = run("two_processes", folder, launcher=launcher, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert (folder / "result.json").exists(), done.stderr[-4000:]
    return folder, json.loads((folder / "result.json").read_text()), load_file(folder / "result.safetensors")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "train",
            "LaunchError: Process 0 of 2 has waited in vain for process 1: ended, or without an answer within 4 s "
            "(`ddp_timeout`).",
        ),
        (
            "store",
            "LaunchError: Process 0 of 2 waits for process 1: ended, or without a sign of work for 4 s "
            "(CIAO_DDP_TIMEOUT).",
        ),
    ],
)
def test_a_process_that_no_longer_answers_is_named_and_not_waited_for_without_an_end(what, said, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CIAO_DDP_TIMEOUT": "4"}
    done = run("two_processes_hanging", tmp_path, what, launcher=launcher, **settings)
    assert (tmp_path / "said.txt").exists(), done.stderr[-4000:]
    assert (tmp_path / "said.txt").read_text().startswith(said)


@pytest.mark.parametrize(("changes", "prefix"), [({}, ""), (two_processes.LEARNED, "learned.")])
def test_two_processes_give_the_gradient_of_one(changes, prefix, together):
    _, result, found = together
    assert result["num_processes"] == 2
    found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    data = two_processes.faces(21)[:11]
    model = two_processes.model_of(**changes)
    pixels, labels = torch.stack([f["pixel_values"] for f in data]), torch.tensor([f["labels"] for f in data])
    output = model(pixels, labels=labels)
    output.loss.backward()
    assert found["loss"].item() == pytest.approx(output.loss.item(), rel=1e-6)
    for name, parameter in model.adapters["default"].named_parameters():
        mine, theirs = parameter.grad.flatten().double(), found[name].flatten().double()
        assert (theirs.norm() / mine.norm()).item() == pytest.approx(1.0, abs=1e-5), name
        assert torch.nn.functional.cosine_similarity(mine, theirs, dim=0).item() == pytest.approx(1.0, abs=1e-6), name


def test_two_processes_train_the_adapter_of_one(together):
    folder, result, found = together
    data = two_processes.faces(21)
    trainer = CIAOTrainer(two_processes.model_of(), two_processes.arguments(per_device_train_batch_size=8))
    trainer.train(data, data[:7])
    assert result["start"] == trainer.config.decay_init is not None
    for name, tensor in weights(trainer.model).items():
        torch.testing.assert_close(found[f"trained.{name}"], tensor, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["logits"], trainer.predict(data[:7]).logits, rtol=1e-3, atol=1e-3)
    ours = [entry["eval_accuracy"] for entry in trainer.log_history if "eval_accuracy" in entry]
    assert [entry["eval_accuracy"] for entry in result["log"] if "eval_accuracy" in entry] == ours
    assert [path.name for path in checkpoint_folders(folder / "run")] == ["checkpoint-3", "checkpoint-6"]


def test_two_processes_learn_the_prototypes_and_average_the_weights_of_one(together):
    _, _, found = together
    arguments = two_processes.arguments(**two_processes.AVERAGED, per_device_train_batch_size=8)
    trainer = CIAOTrainer(two_processes.model_of(**two_processes.LEARNED), arguments)
    trainer.train(two_processes.faces(21))
    for name, tensor in weights(trainer.model).items():
        torch.testing.assert_close(found[f"learned.trained.{name}"], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_two_processes_see_the_mirror_images_that_one_sees(together):
    _, _, found = together
    trainer = CIAOTrainer(
        two_processes.model_of(), two_processes.arguments(**two_processes.PLAIN, per_device_train_batch_size=8)
    )
    trainer.train(two_processes.faces(21))
    assert trainer.training_record()["arguments"]["views"] == 2
    for name, tensor in weights(trainer.model).items():
        torch.testing.assert_close(found[f"plain.trained.{name}"], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_batch_that_leaves_a_process_without_samples_is_refused_by_all_processes(together):
    _, result, _ = together
    message = (
        "With per_device_train_batch_size=1, the 5 samples of train_dataset make batches down to 1, too few for 2 "
        "processes. Set it to 2 or more."
    )
    assert result["refusals"] == [message] * 2


def test_two_processes_store_the_features_of_one(together):
    _, _, found = together
    expected = cache_features(two_processes.model_of(), two_processes.faces(21))
    for index, tensor in enumerate(expected.tensors):
        torch.testing.assert_close(found[f"stored.{index}"], tensor)
