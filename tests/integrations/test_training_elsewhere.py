"""Loops of other people train adapters: Lightning, Accelerate, and a plain one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from ciao_peft import CIAOConfig, CIAOModel, get_ciao_model
from ciao_peft.calibration import start_decay
from ciao_peft.trainer import BalancedBatchSampler, adapter_optimizer
from helpers.training import assert_same, faces, make_model, weights


def loader_for(model: CIAOModel, data: list) -> tuple[DataLoader, BalancedBatchSampler]:
    labels = torch.stack([sample["labels"] for sample in data])
    sampler = BalancedBatchSampler(labels, model.peft_config["default"], batch_size=8)
    return DataLoader(data, batch_sampler=sampler), sampler


def falls(losses: list[float]) -> bool:
    return sum(losses[-3:]) < sum(losses[:3])


def test_a_plain_loop_trains():
    model, data = make_model(), faces()
    backbone = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    loader, sampler = loader_for(model, data)
    start_decay(model, loader)
    optimizer = adapter_optimizer(model, learning_rate=3e-3)
    model.train()
    losses = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        for batch in loader:
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert falls(losses)
    assert_same(backbone, dict(model.backbone.state_dict()))


def test_accelerate_trains():
    from accelerate import Accelerator

    model = make_model()
    loader, _ = loader_for(model, faces())
    accelerator = Accelerator(cpu=True)
    prepared, optimizer, loader = accelerator.prepare(model, adapter_optimizer(model, learning_rate=3e-3), loader)
    prepared.train()
    losses = []
    for _ in range(6):
        for batch in loader:
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert falls(losses)
    assert accelerator.unwrap_model(prepared) is model


def test_lightning_trains_and_resumes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning")

    class Faces(lightning.LightningModule):
        def __init__(self, model: CIAOModel):
            super().__init__()
            self.model, self.losses = model, []

        def training_step(self, batch, index):
            loss = self.model(**batch).loss
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch, index):
            self.log("accuracy", (self.model(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).float().mean())

        def configure_optimizers(self):
            return adapter_optimizer(self.model, learning_rate=1e-2)

    def run(module: Faces, epochs: int, checkpoint: str | None = None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few workers and short logs
            trainer = lightning.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
                default_root_dir=tmp_path,
            )
            loader, _ = loader_for(module.model, faces())
            trainer.fit(module, loader, DataLoader(faces(6), batch_size=6), ckpt_path=checkpoint)
        return trainer

    model = make_model(dropout=0.0)
    backbone = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    straight = Faces(model)
    trainer = run(straight, 6)
    assert falls(straight.losses) and "accuracy" in trainer.callback_metrics
    assert_same(backbone, dict(model.backbone.state_dict()))

    half = Faces(make_model(dropout=0.0))
    run(half, 3).save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    again = Faces(make_model(dropout=0.0))
    run(again, 6, str(tmp_path / "half.ckpt"))
    assert_same(weights(again.model), weights(straight.model))


def test_evaluate_scores_a_pipeline(tmp_path, monkeypatch):
    """`evaluate.evaluator` with a metric of scikit-learn in a module of its own, since this machine has no network."""
    import datasets
    import evaluate
    import numpy as np
    import transformers
    from transformers import pipeline

    from ciao_peft import load_encoder
    from ciao_peft.integrations.transformers import processor_of

    monkeypatch.delattr(transformers, "TFPreTrainedModel", raising=False)  # a page that ran before may have set it

    class Accuracy(evaluate.EvaluationModule):
        def _info(self):
            kinds = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
            return evaluate.EvaluationModuleInfo(description="", citation="", inputs_description="", features=kinds)

        def _compute(self, *, predictions=None, references=None, **more):
            return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}

    names = {0: "sad", 1: "glad"}
    config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label=names)
    model = get_ciao_model(load_encoder("small-face"), config).eval()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    table = datasets.Dataset.from_list(
        [{"image": picture, "label": index % 2} for index, picture in enumerate(pictures)],
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sad", "glad"])}),
    )
    classify = pipeline("image-classification", model=model, image_processor=processor_of(model))

    def score() -> dict:
        return evaluate.evaluator("image-classification").compute(
            model_or_pipeline=classify,
            data=table,
            metric=Accuracy(cache_dir=str(tmp_path)),
            label_mapping={name: index for index, name in names.items()},
        )

    # As docs/howto/ecosystem.md has it: evaluate 0.4.6 asks for a class that transformers 5 has no more. Where this no
    # longer raises, the line and the page's word about it can go.
    with pytest.raises(AttributeError, match="TFPreTrainedModel"):
        score()
    monkeypatch.setattr(transformers, "TFPreTrainedModel", transformers.PreTrainedModel, raising=False)
    found = score()
    answers = model.predict(pictures)
    right = [next(iter(answer)) == names[n % 2] for n, answer in enumerate(answers)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
