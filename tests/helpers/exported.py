"""What an exported folder answers, by onnxruntime and its runner, beside what the model answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from helpers.fakes import small_config


def runner_of(folder: Path):
    """The module `runner.py` of a folder, as it lies there."""
    spec = importlib.util.spec_from_file_location("exported_runner", folder / "runner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def open_runner(folder: Path, *args, **kwargs):
    return runner_of(folder).Runner(folder, *args, threads=1, **kwargs)


def difference(folder: Path, model, pixel_values: Tensor, names: list[str] | None = None) -> float:
    """The largest difference of logits, over all adapters; in parts of the largest of them where that is above 1."""
    answers = open_runner(folder, names).read(pixel_values.numpy())
    with torch.no_grad():
        expected = model.float().read(pixel_values, adapter_names=names)
    assert {name: own["logits"].shape for name, own in answers.items()} == {
        name: tuple(logits.shape) for name, logits in expected.items()
    }
    largest = {name: max(1.0, float(logits.abs().max())) for name, logits in expected.items()}
    off = {name: (torch.from_numpy(answers[name]["logits"]) - logits).abs().max() for name, logits in expected.items()}
    return max(float(off[name]) / largest[name] for name in expected)


VARIANTS = {
    "sets": {"problem_type": "multi_label_classification", "num_labels": 4, "inhibition_form": "additive"},
    "sure": {"probability_temperature": 2.0, "inhibition_form": "subtractive", "pooling": "flatten"},
    "values": {"problem_type": "regression", "num_labels": 2, "inhibition_form": "gain", "hidden_sizes": ()},
    "rank": {"inhibition_rank": 2, "embedding_source": "hidden", "hidden_sizes": (8, 4)},
    "compact": {"inhibition_form": "gain", "inhibition_rank": 2, "excitation_rank": 2, "spatial_maps": 3},
    "excitation": {"inhibition": False, "excitation_rank": 2, "pooling": "avg", "embedding_source": "logits"},
    "without": {"inhibition": False},
    "last_conv": {"tuning": "last_conv"},
    "early": {"target_modules": ("0",)},
    "own.encoder": {"tuning": "full"},
}
"""Settings of adapters on `tiny_backbone`, one for each way in which they differ."""


def add_variants(model, names) -> None:
    for name in names:
        model.add_adapter(name, small_config(**VARIANTS[name]))
