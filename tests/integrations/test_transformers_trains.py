"""transformers' `Trainer` on our models: it trains, evaluates, resumes, and in our subclass saves the adapter alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset
from PIL import Image
from torch import nn
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from ciao_peft import CIAOConfig, CIAOModel, CIAOTrainingArguments, Preprocessing, get_ciao_model
from ciao_peft.errors import AdapterConfigError, ConfigError, DataError, InputError, TrainingError
from ciao_peft.integrations.transformers import CIAOForImageClassification
from ciao_peft.integrations.transformers_trainer import AdapterTrainer
from ciao_peft.trainer import BalancedSampler, adapter_optimizer

QUIET = {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "use_cpu": True, "seed": 3}


def made(**settings: object) -> CIAOModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    settings = {"hidden_sizes": (), "decay_init": 1.0, **settings}
    config = CIAOConfig(problem_type="single_label_classification", num_labels=3, **settings)
    return get_ciao_model(net, config, input_size=(3, 12, 12))


@pytest.fixture
def faces() -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(1)
    classes = [0] * 12 + [1] * 8 + [2] * 4
    bright = [torch.rand(3, 12, 12, generator=generator) / 3 + y / 3 for y in classes]
    return [{"pixel_values": x, "labels": y} for x, y in zip(bright, classes, strict=True)]


def tensors(model: CIAOModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.adapters["default"].state_dict().items()}


def accuracy(prediction) -> dict[str, float]:
    assert isinstance(prediction.predictions, np.ndarray)  # embeddings and losses are no predictions
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def test_plain_trainer_trains_and_evaluates(faces, tmp_path):
    model = made()
    backbone = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    args = TrainingArguments(
        str(tmp_path), num_train_epochs=20, per_device_train_batch_size=8, save_strategy="no", **QUIET
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=faces,
        eval_dataset=faces,
        compute_metrics=accuracy,
        optimizers=(adapter_optimizer(model, learning_rate=1e-2), None),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] and after["eval_accuracy"] > before["eval_accuracy"]
    assert all(torch.equal(value, backbone[name]) for name, value in model.backbone.state_dict().items())
    assert trainer.predict(faces).predictions.shape == (24, 3)


@pytest.mark.parametrize(
    "given",
    [
        *(
            "x.png",
            Path("faces"),
            b"png",
            7,
            None,
            list,
            ["a.png"],
            [1, 2],
            [],
            {"pixel_values": torch.zeros(2, 3, 4, 4)},
        ),
        *(torch.zeros(2, 3, 12, 12), np.zeros((3, 12, 12)), [Image.new("RGB", (12, 12))], iter([])),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_dataset_cannot_be_predicted_for(given, tmp_path):
    trainer = AdapterTrainer(made(), TrainingArguments(str(tmp_path), **QUIET))
    with pytest.raises(DataError, match=r"(?s)`test_dataset` must be a dataset .*`model\.predict"):
        trainer.predict(given)


def test_settings_of_the_other_trainer_are_told(faces):
    with pytest.raises(ConfigError, match=r"TrainingArguments; got CIAOTrainingArguments\. `CIAOTrainer` takes"):
        AdapterTrainer(made(), CIAOTrainingArguments(max_steps=1), train_dataset=faces)


def test_the_optimiser_gives_each_part_its_rate():
    model = made(tuning="last_conv")
    groups = adapter_optimizer(model, learning_rate=1e-3, mask_learning_rate=0.5, optim="sgd").param_groups
    assert {group["part"]: group["lr"] for group in groups} == {"mask": 0.5, "encoder": 2e-3, "head": 1e-3}
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in model.adapters["default"].parameters() if p.requires_grad}
    with pytest.raises(ConfigError, match="learning_rate"):
        adapter_optimizer(model, learning_rate=-1)


def test_indices_cut_into_batches_all_have_a_pair():
    labels = torch.tensor([0] * 20 + [1] * 7 + [2] * 3 + [3])
    config = CIAOConfig(problem_type="single_label_classification", num_labels=4)
    sampler = BalancedSampler(labels, config, batch_size=4)
    seen = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler) == 31
        assert order == list(sampler)
        batches = [labels[order[i : i + 4]] for i in range(0, 31, 4)]
        assert all(len(batch.unique()) < len(batch) for batch in batches)
        seen.append(order)
    assert len({tuple(order) for order in seen}) == 5
    plain = BalancedSampler(labels, config, batch_size=4, class_balance=None)
    assert sorted(plain) == list(range(31))


def test_adapter_trainer_draws_pairs_and_gives_the_mask_its_own_rate(faces, tmp_path):
    model = made()
    batches = []
    model.register_forward_pre_hook(lambda module, args, kwargs: batches.append(kwargs["labels"]), with_kwargs=True)
    args = TrainingArguments(
        str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=5,
        save_strategy="no",
        learning_rate=1e-3,
        **QUIET,
    )
    trainer = AdapterTrainer(model, args, train_dataset=faces)
    trainer.train()
    assert len(batches) == 15
    assert all(len(batch.unique()) < len(batch) for batch in batches)
    assert len({tuple(batch.tolist()) for batch in batches}) > 10  # epochs differ
    peaks = {group["part"]: group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert peaks == {"mask": 1e-2, "head": 1e-3}


def test_adapter_trainer_starts_the_decay(faces, tmp_path):
    model = made(decay_init=None)
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", **QUIET)
    AdapterTrainer(model, args, train_dataset=faces).train()
    assert model.peft_config["default"].decay_init not in (None, 1.0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_adapter_trainer_saves_the_adapter_alone_and_resumes(wrapped, faces, tmp_path):
    def run(folder, model, steps, resume=False):
        args = TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=8,
            save_steps=3,
            lr_scheduler_type="constant",
            learning_rate=1e-2,
            **QUIET,
        )
        given = CIAOForImageClassification(model) if wrapped else model
        trainer = AdapterTrainer(given, args, train_dataset=faces)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight, stopped, resumed = made(dropout=0.3), made(dropout=0.3), made(dropout=0.3)
    run(tmp_path / "straight", straight, 6)
    run(tmp_path / "stopped", stopped, 3)
    names = {path.name for path in (tmp_path / "stopped" / "checkpoint-3").iterdir()}
    assert "adapter_model.safetensors" in names and not names & {"model.safetensors", "pytorch_model.bin"}
    fresh = CIAOModel(straight.backbone, input_size=(3, 12, 12))
    fresh.load_adapter(tmp_path / "stopped" / "checkpoint-3", "default")
    assert all(torch.equal(value, tensors(stopped)[name]) for name, value in tensors(fresh).items())

    held = resumed.adapters["default"]
    run(tmp_path / "stopped", resumed, 6, resume=True)
    assert resumed.adapters["default"] is held
    assert all(torch.equal(value, tensors(straight)[name]) for name, value in tensors(resumed).items())


def test_adapter_trainer_ends_with_the_best(faces, tmp_path):
    model = made()
    kept = {}

    def scored(prediction) -> dict[str, float]:
        kept[len(kept)] = tensors(model)
        return {"accuracy": [0.2, 0.9, 0.5][len(kept) - 1]}

    args = TrainingArguments(
        str(tmp_path),
        num_train_epochs=3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        **QUIET,
    )
    AdapterTrainer(model, args, train_dataset=faces, eval_dataset=faces, compute_metrics=scored).train()
    assert all(torch.equal(value, kept[1][name]) for name, value in tensors(model).items())


def test_a_checkpoint_of_another_kind_is_refused(faces, tmp_path):
    made(pooling="avg").save_pretrained(tmp_path / "checkpoint-1")
    args = TrainingArguments(str(tmp_path), max_steps=2, save_strategy="no", **QUIET)
    model = made()
    trainer = AdapterTrainer(model, args, train_dataset=faces)
    before = tensors(model)
    with pytest.raises(AdapterConfigError, match="another `pooling`"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())


def painted(count: int, **columns: object) -> Dataset:
    shades = [Image.fromarray(np.full((9 + n, 14, 3), 60 * (n % 3) + 20, dtype=np.uint8)) for n in range(count)]
    return Dataset.from_dict({"image": shades, **columns})


def test_adapter_trainer_prepares_pictures(tmp_path):
    model = made()
    model.preprocessing = Preprocessing(size=(12, 12))
    table, unlabelled = painted(24, label=[0, 1, 2] * 8, name=["x"] * 24), painted(5)
    args = TrainingArguments(
        str(tmp_path), num_train_epochs=12, save_strategy="no", learning_rate=1e-2, eval_strategy="no", **QUIET
    )
    both = {"same": table, "fewer": table.select(range(6))}
    trainer = AdapterTrainer(model, args, train_dataset=table, eval_dataset=both, compute_metrics=accuracy)
    trainer.train()
    assert trainer.evaluate()["eval_same_accuracy"] == trainer.evaluate(table)["eval_accuracy"] > 0.9
    answers = trainer.predict(unlabelled)
    assert answers.label_ids is None and answers.predictions.argmax(1).tolist() == [0, 1, 2, 0, 1]
    expected = model.eval()(model.preprocessing(list(unlabelled["image"]))).logits
    assert np.allclose(answers.predictions, expected.detach().numpy(), atol=1e-5)

    own = table.with_transform(lambda rows: {"pixel_values": torch.zeros(len(rows["image"]), 3, 12, 12)})
    trainer.args.remove_unused_columns = False
    assert not np.ptp(trainer.predict(own).predictions, axis=0).any()  # a transform of one's own goes first


def test_adapter_trainer_joins_labels_by_name_and_notes_how_frequent_they_are(tmp_path):
    names = {0: "dark", 1: "gray", 2: "light"}
    args = TrainingArguments(str(tmp_path), num_train_epochs=30, save_strategy="no", learning_rate=1e-2, **QUIET)
    other_order = painted(24, label=[2, 1, 0] * 8).cast_column("label", ClassLabel(names=["light", "gray", "dark"]))
    pixels = other_order.map(lambda row: {"pixel_values": np.asarray(row["image"].resize((12, 12))).transpose(2, 0, 1)})
    pixels = pixels.remove_columns("image").cast_column("pixel_values", Array3D((3, 12, 12), "float32"))
    for table in (other_order, pixels):
        model = made(id2label=names)
        model.preprocessing = Preprocessing(size=(12, 12))
        trainer = AdapterTrainer(model, args, train_dataset=table, class_balance=None, compute_metrics=accuracy)
        trainer.train()
        answers = trainer.predict(table)
        assert answers.label_ids.tolist() == [0, 1, 2] * 8
        assert (answers.predictions.argmax(1) == answers.label_ids).mean() > 0.6
        assert model.peft_config["default"].class_prior == pytest.approx((1 / 3,) * 3)
    strange = other_order.cast_column("label", ClassLabel(names=["x", "y", "z"]))
    with pytest.raises(TrainingError, match="the adapter does not know 'x', 'y', 'z'"):
        trainer.evaluate(strange)


def test_adapter_trainer_prepares_any_map_style_dataset_of_pictures(tmp_path):
    model, table = made(), painted(12, label=[0, 1, 2] * 4)
    model.preprocessing = Preprocessing(size=(12, 12))
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", **QUIET)
    for faces in (list(table), Subset(table, range(12)), table.with_transform(lambda rows: rows)):
        assert AdapterTrainer(model, args, train_dataset=faces).train().global_step == 1


def test_adapter_trainer_refuses_what_has_no_labels_and_what_is_out_of_range(tmp_path):
    model = made()
    model.preprocessing = Preprocessing(size=(12, 12))
    args = TrainingArguments(str(tmp_path / "new"), max_steps=1, save_strategy="no", **QUIET)
    for balance in (None, 0.5):
        with pytest.raises(TrainingError, match="train_dataset has no labels"):
            AdapterTrainer(model, args, train_dataset=painted(6), class_balance=balance).train()
        loud = [{"pixel_values": torch.rand(3, 12, 12), "labels": 7} for _ in range(6)]
        with pytest.raises(InputError, match="labels of train_dataset"):
            AdapterTrainer(model, args, train_dataset=loud, class_balance=balance).train()


@pytest.mark.parametrize("url", ["s3://bucket/fer", "memory://fer"])
def test_adapter_trainer_makes_no_folder_of_a_url(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="`output_dir` must be a folder on this disk"):
        AdapterTrainer(made(), TrainingArguments(url, **QUIET))
    assert not [*tmp_path.iterdir()]


def test_adapter_trainer_says_what_pictures_lack(tmp_path):
    args = TrainingArguments(str(tmp_path), **QUIET)
    with pytest.raises(DataError, match="give `preprocessing=` to get_ciao_model"):
        AdapterTrainer(made(), args, train_dataset=painted(3, label=[0, 1, 2]))


def test_other_models_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="`model` must be a CIAOModel"):
        AdapterTrainer(nn.Linear(2, 2), TrainingArguments(str(tmp_path), **QUIET))
