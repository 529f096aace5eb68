"""Golden adapters: what they are made of, and the program that adds those of a release.

    PYTHONPATH=tests python -m helpers.golden

run in the repository's root, writes the folder of this release. Backbone and pixels come from a formula, so that they
are the same on every machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import ciao_peft
from ciao_peft.model import get_ciao_model

from .fakes import SIZE, small_config, tiny_backbone, train
from .places import TESTS

GOLDEN = TESTS / "saving" / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/outputs.json"))
WORLDS = {
    "classes": small_config(temperature=0.2, decay_init=0.5, hidden_sizes=(8,)),
    "values": small_config(
        problem_type="regression",
        num_labels=2,
        tuning="last_conv",
        train_batch_norm=True,
        pooling="max",
        hidden_sizes=(),
    ),
    "depths": small_config(depths=("0",), depth_grid=2, spatial_maps=2, hidden_sizes=(8,), inhibition_form="gain"),
    "labels": small_config(
        problem_type="multi_label_classification", num_labels=4, tuning="full", inhibition=False, pooling="avg"
    ),
}


def wave(shape: tuple[int, ...], step: float) -> Tensor:
    """Values between -1 and 1, the same everywhere to the last bit of float32 or nearly so."""
    return torch.tensor([math.sin(step * (k + 1)) for k in range(math.prod(shape))]).reshape(shape)


def formula_backbone() -> nn.Sequential:
    backbone = tiny_backbone()
    with torch.no_grad():
        for place, (name, tensor) in enumerate(backbone.state_dict().items()):
            if tensor.is_floating_point():
                values = wave(tuple(tensor.shape), 1.7 + place / 10)
                scale = math.sqrt(3 / tensor[0].numel()) if tensor.ndim > 1 else 0.3
                tensor.copy_(1 + 0.5 * values if name.endswith("running_var") else scale * values)
                if tensor.ndim == 1 and name.endswith("weight"):
                    tensor.add_(1)
    return backbone


def formula_pixels() -> Tensor:
    return torch.stack([(wave(SIZE, 0.03 * 3**row) + 1) / (row + 1) for row in range(5)])


def write_release(folder: Path) -> None:
    for name, config in WORLDS.items():
        torch.manual_seed(0)
        model = train(get_ciao_model(formula_backbone(), config, name), steps=5).eval()
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink()  # it says where the folder was made
        output = model(formula_pixels())
        wanted = {"logits": output.logits.tolist(), "embeddings": output.embeddings.tolist()}
        (folder / name / "outputs.json").write_text(json.dumps(wanted) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_release(GOLDEN / ciao_peft.__version__)
