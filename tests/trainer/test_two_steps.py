"""Two updates per batch: the contrastive loss for mask and copies, then the task loss for the head."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from ciao_peft import CIAOTrainer, CIAOTrainingArguments, cache_features
from ciao_peft.errors import TrainingError
from ciao_peft.losses import contrastive_loss, task_loss
from ciao_peft.trainer.checkpoint import checkpoint_folders
from ciao_peft.trainer.loop import TrainingLoop
from ciao_peft.trainer.sampler import plan_epoch
from helpers import killed
from helpers.fakes import SIZE, bits, same_bits, tiny_backbone, wrap
from helpers.training import BALANCED


def faces(count=24):
    kinds = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": kinds[n % 3] + noise[n], "labels": torch.tensor(n % 3)} for n in range(count)]


def arguments(**changes):
    values = BALANCED | {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "two_steps": True}
    return CIAOTrainingArguments(**({**values, "learning_rate": 0.003} | changes))


def by_hand(model, data, args):
    """The same training with an optimiser for mask and copies and one for the head. Returns the losses of each."""
    config, groups = model.peft_config["default"], model.adapter_parameters("default")
    rates = args.learning_rates(config.tuning)

    def make_optimizer(*parts):
        own = [(p, rates[part]) for part in parts for p in groups[part]]
        each = [{"params": [p], "lr": r, "peak": r, "weight_decay": 0.01 if p.ndim > 1 else 0.0} for p, r in own]
        return torch.optim.AdamW(each, fused=True), [p for p, _ in own]

    (body, of_body), (head, of_head) = make_optimizer("mask", "encoder"), make_optimizer("head")
    pixels = torch.stack([face["pixel_values"] for face in data])
    labels = torch.stack([face["labels"] for face in data])
    accumulate, logged = args.gradient_accumulation_steps, []
    plans = [plan_epoch(labels.numpy(), 8, seed=args.seed, epoch=epoch, balance=0.5) for epoch in range(2)]
    updates = [plan[i : i + accumulate] for plan in plans for i in range(0, len(plan), accumulate)]
    model.train()
    for number, batches in enumerate(updates):
        losses = {}
        for name, optimizer, parameters in (("contrastive", body, of_body), ("task", head, of_head)):
            total = 0.0
            for rows in batches:
                output = model(pixels[rows])
                if name == "contrastive":
                    loss = config.contrastive_weight * contrastive_loss(output.embeddings, labels[rows], config)
                else:
                    loss = task_loss(output.logits, labels[rows], config)
                total = total + loss / len(batches)
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient
            torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * args.rate_factor(number, len(updates))
            optimizer.step()
            losses[name] = total.item()
        logged.append(losses)
    return logged


@pytest.mark.parametrize("accumulate", [1, 2], ids=["whole", "accumulated"])
@pytest.mark.parametrize("source", ["features", "hidden", "logits"])
@pytest.mark.parametrize(
    "network",
    [
        {"tuning": "decision_layer"},
        {"tuning": "last_conv"},
        {"tuning": "full"},
        {"tuning": "full", "inhibition": False},
    ],
    ids=lambda network: "-".join(map(str, network.values())),
)
def test_two_steps_are_two_updates_of_two_optimisers_written_out(network, source, accumulate):
    settings = {**network, "embedding_source": source, "dropout": 0.0, "contrastive_weight": 0.5}
    args, data = arguments(gradient_accumulation_steps=accumulate), faces()
    model, expected = wrap(**settings), wrap(**settings)
    start = bits(expected.adapters["default"])
    logged = by_hand(expected, data, args)
    trainer = CIAOTrainer(model, args)
    trainer.train(data)
    found, wanted = bits(model.adapters["default"]), bits(expected.adapters["default"])
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=2e-6)
        learns = name in expected.adapters["default"].trainable
        assert torch.equal(start[name], found[name]) != learns, name
    entries = [entry for entry in trainer.log_history if "task_loss" in entry]
    assert [e["task_loss"] for e in entries] == pytest.approx([losses["task"] for losses in logged], rel=1e-4)
    assert [0.5 * e["contrastive_loss"] for e in entries] == pytest.approx(
        [losses["contrastive"] for losses in logged], rel=1e-4
    )
    assert [e["loss"] for e in entries] == pytest.approx([sum(losses.values()) for losses in logged], rel=1e-4)


def test_two_steps_give_another_adapter_than_one():
    found = []
    for two_steps in (True, False):
        model = wrap(dropout=0.0)
        CIAOTrainer(model, arguments(two_steps=two_steps)).train(faces())
        found.append(bits(model.adapters["default"]))
    assert not any(
        torch.equal(found[0][f"inhibition.0.{name}"], found[1][f"inhibition.0.{name}"])
        for name in ("conv.weight", "raw_decay")
    )


def test_the_head_sees_the_mask_as_the_first_step_left_it():
    # With no step for the head, the task loss of an update is that of the mask after its contrastive step.
    data, args = faces(8), arguments(num_train_epochs=2, learning_rate=1e-12, mask_learning_rate=0.05, weight_decay=0.0)
    model = wrap(dropout=0.0)
    trainer = CIAOTrainer(model, args, on_log=lambda entry: None)
    trainer.train(data)
    after = trainer.evaluate(data)["eval_loss"]
    entries = [entry for entry in trainer.log_history if "task_loss" in entry]
    rows = np.concatenate(plan_epoch(np.arange(8) % 3, 8, seed=args.seed, epoch=1, balance=0.5))
    model.train()
    batch = torch.stack([data[row]["pixel_values"] for row in rows])
    drawn = torch.tensor([int(data[row]["labels"]) for row in rows])
    assert model(batch, labels=drawn).task_loss.item() == pytest.approx(entries[-1]["task_loss"], rel=1e-5)
    assert after > 0


def test_features_and_pixels_train_the_same_adapter():
    found = []
    for data in (faces(), cache_features(tiny_backbone(), faces(), include_excitation=True)):
        model = wrap(dropout=0.5)
        CIAOTrainer(model, arguments(feature_cache="never")).train(data)
        found.append(bits(model.adapters["default"]))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-5)


# -- resumed and stopped ----------------------------------------------------------------------------------------------

PLAIN = {"two_steps": True, "load_best_model_at_end": False}


@pytest.mark.parametrize("accumulate", [1, 2], ids=["whole", "accumulated"])
def test_a_resumed_training_goes_on_bit_for_bit(tmp_path, accumulate):
    data, changes = killed.faces(), {**PLAIN, "gradient_accumulation_steps": accumulate}
    whole = killed.training(tmp_path / "whole", **changes)
    whole.train(data)
    first = checkpoint_folders(tmp_path / "whole")[0]
    assert first.name == "checkpoint-2"  # in the middle of an epoch of three, or at the end of one of two
    shutil.copytree(first, tmp_path / "part" / first.name)
    resumed = killed.training(tmp_path / "part", resume=True, **changes)
    resumed.train(data)
    assert same_bits(bits(resumed.model.adapters["default"]), bits(whole.model.adapters["default"]))
    logs = [[e for e in t.log_history if "train_runtime" not in e] for t in (whole, resumed)]
    assert logs[0] == logs[1]


def test_it_is_not_resumed_in_one_step(tmp_path):
    data = killed.faces()
    killed.training(tmp_path, **PLAIN).train(data)
    with pytest.raises(TrainingError, match="'two_steps' is True there and False here"):
        killed.training(tmp_path, resume=True, load_best_model_at_end=False).train(data)


@pytest.mark.parametrize(("calls", "said"), [(2, "Stopped after update 1 of 9. Saved"), (3, "Stopped within update 2")])
def test_no_checkpoint_is_written_between_the_two_steps(tmp_path, monkeypatch, calls, said):
    step, made = TrainingLoop._step, []

    def interrupted(run):
        if len(made) == calls:  # 2: before the first step of update 2; 3: before its second
            raise KeyboardInterrupt
        made.append(run.step)
        step(run)

    monkeypatch.setattr(TrainingLoop, "_step", interrupted)
    trainer = killed.training(tmp_path, **PLAIN | {"save_strategy": "no", "save_steps": None})
    with pytest.raises(KeyboardInterrupt, match=said):
        trainer.train(killed.faces())
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == (["checkpoint-1"] if calls == 2 else [])


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"contrastive_weight": 0.0}, {"inhibition": False}])
def test_there_must_be_something_for_each_step(changes):
    model = wrap(**changes)
    before = bits(model)
    with pytest.raises(TrainingError, match="With `two_steps` the contrastive loss trains all but the head"):
        CIAOTrainer(model, arguments()).train(faces())
    assert same_bits(bits(model), before)


def test_a_low_rank_excitation_is_something_for_the_first_step():
    model = wrap(inhibition=False, excitation_rank=2)
    up = model.adapters["default"].low_rank_excitation[0].up.weight
    CIAOTrainer(model, arguments()).train(faces())
    assert up.abs().max() > 0


def test_several_processes_are_refused():
    trainer = CIAOTrainer(wrap(), arguments())

    class Two:
        num_processes, process_index, is_main_process, device = 2, 0, False, torch.device("cpu")

    trainer._accelerator = Two()
    with pytest.raises(TrainingError, match="`two_steps` trains in one process"):
        trainer.train(faces())
