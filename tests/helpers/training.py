"""Short trainings: faces that can be learned, one model and one trainer, and what tells two results apart."""

from __future__ import annotations

import torch

from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, get_ciao_model

from .fakes import SIZE, tiny_backbone

CLASSES = {"problem_type": "single_label_classification", "num_labels": 3}
TASKS = {
    "classes": (CLASSES, lambda n: n % 3),
    "distributions": (CLASSES, lambda n: [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]][n % 3]),
    "values": ({"problem_type": "regression", "num_labels": 2}, lambda n: [(n % 5) / 5, -(n % 3) / 3]),
    "concordance": ({"problem_type": "regression", "num_labels": 1, "regression_loss": "ccc"}, lambda n: [(n % 5) / 5]),
    "sets": ({"problem_type": "multi_label_classification", "num_labels": 2}, lambda n: [n % 2, (n // 2) % 2]),
}


def faces(count=24, label_of=lambda n: n % 3, seed=0):
    """Pictures that tell their class: noise around one picture per class."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(count, *SIZE, generator=generator)
    return [{"pixel_values": kinds[n % 3] + noise[n], "labels": torch.as_tensor(label_of(n))} for n in range(count)]


def make_model(backbone=None, **changes):
    config = CIAOConfig(**(CLASSES | {"hidden_sizes": (32,)} | changes))
    return get_ciao_model(backbone or tiny_backbone(), config, input_size=SIZE)


BALANCED = {"class_balanced_batches": True, "warmup_ratio": 0.0, "views": 1}
"""Every batch holds pairs of each class, and every picture is seen as it is, from full rates on."""


def make_trainer(model=None, **changes):
    values = BALANCED | {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1}
    return CIAOTrainer(model or make_model(), CIAOTrainingArguments(**(values | changes)))


def weights(model, name="default"):
    return {key: tensor.clone() for key, tensor in model.adapters[name].state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def scripted(scores):
    """Metrics that follow a script, one value per evaluation."""
    remaining = iter(scores)
    return lambda logits, labels: {"score": next(remaining)}
