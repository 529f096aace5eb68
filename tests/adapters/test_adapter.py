"""What the settings of an adapter make of its modules: what trains, from where, and by which loss."""

from __future__ import annotations

import json

import pytest
import torch

from ciao_peft import CIAOModel, CIAOTrainer, CIAOTrainingArguments, get_ciao_model
from ciao_peft.errors import TrainingError
from ciao_peft.trainer.job import LogitsAndEmbeddings
from ciao_peft.trainer.optimizer import make_optimizer
from helpers.fakes import (
    Branches,
    Undecided,
    bits,
    pixels,
    residual_backbone,
    same_bits,
    small_config,
    tiny_backbone,
    train,
    wrap,
)
from helpers.golden import FOLDERS, formula_backbone

ABLATIONS = {
    "additive": {"inhibition_form": "additive"},
    "subtractive": {"inhibition_form": "subtractive"},
    "gain": {"inhibition_form": "gain"},
    "low-rank": {"inhibition_rank": 2, "excitation_rank": 3},
    "gain-low-rank": {"inhibition_form": "gain", "inhibition_rank": 2, "excitation_rank": 2},
    "excitation-alone": {"inhibition": False, "excitation_rank": 2},
    "maps": {"spatial_maps": 3, "hidden_sizes": ()},
    "random": {"inhibition_start": "random"},
    "constant": {"learn_decay": False},
    "head": {"task_loss_trains": "head"},
    "head-hidden": {"task_loss_trains": "head", "embedding_source": "logits"},
    "all-of-it": {"inhibition_form": "additive", "inhibition_start": "random", "learn_decay": False},
}
CHANGES = pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
NEWER = {"inhibition_rank": None, "excitation_rank": 0, "spatial_maps": None}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


# -- saved and loaded -------------------------------------------------------------------------------------------------


@CHANGES
@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
def test_saved_is_loaded_bit_for_bit(changes, tuning, tmp_path):
    model = train(wrap(tuning=tuning, **changes)).eval()
    model.save_pretrained(tmp_path / "adapter")
    again = CIAOModel.from_pretrained(tiny_backbone(), tmp_path / "adapter").eval()
    assert again.peft_config["adapter"] == model.peft_config["default"]
    assert same_bits(bits(again.adapters["adapter"]), bits(model.adapters["default"]))
    assert torch.equal(again(pixels()).logits, model(pixels()).logits)
    assert again.adapters["adapter"].trainable == model.adapters["default"].trainable
    assert not torch.equal(wrap(tuning=tuning, **changes).eval()(pixels()).logits, model(pixels()).logits)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_adapter_from_before_a_setting_has_its_default(folder):
    settings = ("inhibition_form", "inhibition_start", "learn_decay", "task_loss_trains", *NEWER)
    saved = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    if "depths" in saved["config"]:
        pytest.skip("saved with these settings")
    config = CIAOModel.from_pretrained(formula_backbone(), folder).peft_config[folder.name]
    assert [getattr(config, name) for name in settings] == ["divisive", "copy", True, "all", *NEWER.values()]


@CHANGES
def test_every_setting_works_where_the_backbone_could_not_be_cut(changes):
    cut, hooked = wrap(**changes, dropout=0.0), wrap(Undecided(), **changes, dropout=0.0)
    assert not hooked.traceable
    for model in (cut, hooked):
        model.train()
        model(pixels(6), labels=LABELS).loss.backward()
    torch.testing.assert_close(hooked(pixels()).logits, cut(pixels()).logits)
    for one, other in zip(cut.adapters["default"].parameters(), hooked.adapters["default"].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


# -- a random start ---------------------------------------------------------------------------------------------------


def test_a_random_start_comes_from_the_seed_and_not_from_the_name():
    def convs(seed=0, name="default"):
        torch.rand(3)
        model = wrap(
            Branches().eval(), name, inhibition_start="random", init_seed=seed, target_modules=("one.0", "two")
        )
        return [layer.conv.weight.detach() for layer in model.adapters[name].inhibition]

    first, again, other = convs(), convs(name="another"), convs(seed=1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.isclose(one, two).any() for one, two in zip(first, other, strict=True))
    share = min(first[0].numel(), first[1].numel())  # each unit draws its own
    assert not torch.isclose(first[0].flatten()[:share], first[1].flatten()[:share], rtol=0.01).all()


def test_a_random_start_changes_the_head_in_nothing():
    one, other = (wrap(inhibition_start=start).adapters["default"].head for start in ("copy", "random"))
    assert same_bits(bits(one), bits(other))


# -- a constant a -----------------------------------------------------------------------------------------------------


def test_a_constant_decay_is_in_no_optimiser_and_stays(tmp_path):
    model = wrap(learn_decay=False, decay_init=0.7)
    adapter = model.adapters["default"]
    raw, others = adapter.inhibition[0].raw_decay, set(adapter.parameters())
    assert "inhibition.0.raw_decay" not in adapter.trainable
    assert not any(raw is p for group in model.adapter_parameters("default").values() for p in group)
    optimizer = make_optimizer(
        model.adapter_parameters("default"), CIAOTrainingArguments(), "decision_layer", "default"
    )
    assert {p for group in optimizer.param_groups for p in group["params"]} == others - {raw}
    before = bits(model)
    faces = [{"pixel_values": row, "labels": int(n % 3)} for n, row in enumerate(pixels(12))]
    CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=2, per_device_train_batch_size=6)).train(faces)
    same = {key for key, now in bits(model.adapters["default"]).items() if torch.equal(before[_key(key)], now)}
    assert {key for key in same if "running" not in key and "num_batches" not in key} == {
        "inhibition.0.raw_decay",
        "inhibition.0.start_decay",
    }
    assert adapter.inhibition[0].decay.tolist() == pytest.approx([0.7] * 12)
    # Neither choosing it for training nor loading it makes it learn.
    model.save_pretrained(tmp_path / "constant")
    model.load_adapter(tmp_path / "constant", "again")
    for name in ("again", "default"):
        model.train_adapter(name)
        on = {key for key, p in model.adapters[name].named_parameters() if p.requires_grad}
        assert (
            on
            == set(model.adapters[name].trainable)
            == {k for k, _ in adapter.named_parameters()} - {"inhibition.0.raw_decay"}
        )


def _key(name):
    return f"adapters.adapter:default.{name}"


@CHANGES
def test_nothing_that_trains_is_left_without_a_gradient_in_data_parallel_training(changes):
    import torch.distributed as dist

    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage] - torch documents it there
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = wrap(**changes).train()
        wrapped = torch.nn.parallel.DistributedDataParallel(LogitsAndEmbeddings(model))
        for _ in range(3):  # what a pass leaves out is noticed in the next one
            logits, embeddings = wrapped(pixel_values=pixels(6))
            (logits.square().sum() + embeddings.square().sum()).backward()
    finally:
        dist.destroy_process_group()


# -- what the task loss reaches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tiny_backbone, residual_backbone], ids=["chain", "residual"])
@pytest.mark.parametrize("source", ["features", "hidden", "logits"])
@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
def test_mask_and_copies_get_the_gradient_of_the_contrastive_loss_alone(tuning, source, make):
    settings = {"tuning": tuning, "embedding_source": source, "dropout": 0.0, "contrastive_weight": 0.3}
    plain, apart = (wrap(make(), task_loss_trains=trains, **settings).train() for trains in ("all", "head"))
    output = plain(pixels(6), labels=LABELS)
    groups = plain.adapter_parameters("default")
    body, head = [*groups["mask"], *groups["encoder"]], groups["head"]
    contrastive = 0.3 * output.contrastive_loss
    of_body = torch.autograd.grad(contrastive, body, retain_graph=True)
    of_head = torch.autograd.grad(output.task_loss + contrastive, head)
    result = apart(pixels(6), labels=LABELS)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(output.loss.item(), rel=1e-6)
    groups = apart.adapter_parameters("default")
    for parameter, expected in zip([*groups["mask"], *groups["encoder"]], of_body, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)
    assert any(gradient.abs().max() > 1e-4 for gradient in of_body)
    for parameter, expected in zip(groups["head"], of_head, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7)


def test_what_the_task_loss_reaches_changes_no_answer():
    for source in ("features", "hidden", "logits"):
        one, other = (
            get_ciao_model(tiny_backbone(), small_config(task_loss_trains=trains, embedding_source=source)).eval()
            for trains in ("all", "head")
        )
        for answer in ("logits", "embeddings"):
            assert torch.equal(getattr(one(pixels()), answer), getattr(other(pixels()), answer))


@pytest.mark.parametrize(
    "parts",
    [{"tuning": "decision_layer"}, {"tuning": "last_conv"}, {"inhibition": False, "excitation_rank": 2}],
    ids=["decision_layer", "last_conv", "low rank"],
)
def test_a_mask_that_no_loss_would_train_is_refused(parts):
    model = wrap(task_loss_trains="head", contrastive_weight=0.0, **parts)
    faces = [{"pixel_values": row, "labels": int(n % 3)} for n, row in enumerate(pixels(12))]
    before = bits(model)
    with pytest.raises(TrainingError, match="With `task_loss_trains='head'` and a `contrastive_weight` of 0, nothing"):
        CIAOTrainer(model, CIAOTrainingArguments(num_train_epochs=1)).train(faces)
    assert same_bits(bits(model), before)
    without = wrap(task_loss_trains="head", contrastive_weight=0.0, inhibition=False)  # there is only a head
    CIAOTrainer(without, CIAOTrainingArguments(num_train_epochs=1)).train(faces)


def test_a_large_excitation_stays_within_half_precision():
    model = wrap(tiny_backbone().half(), inhibition=False, excitation_rank=2).eval()
    torch.nn.init.constant_(model.adapters["default"].low_rank_excitation[0].up.weight, 1e6)
    assert model(pixels().half()).embeddings.isfinite().all()


@pytest.mark.parametrize("tuning", ["decision_layer", "last_conv", "full"])
def test_loaded_convolutions_are_laid_out_as_they_were(tuning, tmp_path):
    def backbone():
        return residual_backbone().to(memory_format=torch.channels_last)

    model = train(wrap(backbone(), tuning=tuning, inhibition_form="gain", excitation_rank=2))
    again = CIAOModel.from_pretrained(backbone(), model.save_pretrained(tmp_path / "default"))
    assert torch.equal(again.eval()(pixels()).logits, model.eval()(pixels()).logits)
    before, after = (each.adapters["default"].state_dict() for each in (model, again))
    assert {key: value.stride() for key, value in before.items()} == {k: v.stride() for k, v in after.items()}
