"""Worlds of which one knows what suits them, and short tunings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ciao_peft import load_encoder
from ciao_peft.encoders import save_encoder
from ciao_peft.study import Encoder, Method, Task, TuneResult, tune

from .studies import tiny_encoder

PAINTED = {"num_train": 72, "num_validation": 2, "num_test": 2, "size": 32}
HEAD = {"hidden_sizes": [4], "dropout": 0.0}
_MASK = {**HEAD, "inhibition_form": "subtractive", "inhibition_rank": 4}
_RATES = {"arguments": {"learning_rate": 0.03}, "rate": "mask_learning_rate"}
LEARNING = Method(name="learning", config=_MASK, rates=(0.1,), **_RATES)
STUCK = Method(name="stuck", config=_MASK, rates=(1e-12,), **_RATES)


def painted(world: str = "eight", **options: Any) -> Task:
    """A few painted faces."""
    return Task(
        name=world, dataset="painted_faces", options={**PAINTED, "world": world, **options}, group_by="identity"
    )


def folder_of(folder: Path, labels: Sequence[str], people: Sequence[str] | None = None, seed: int = 0) -> Task:
    """Noisy pictures, each class in another colour; a training split alone, so that there is no test split to look at.

    Args:
        folder: Where to.
        labels: Of each picture.
        people: On each picture; nobody says when left out.
        seed: Of the noise.
    """
    (folder / "train").mkdir(parents=True)
    rng, names = np.random.default_rng(seed), sorted(set(labels))
    lines = ["file_name,label,identity" if people is not None else "file_name,label"]
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 80, (32, 32, 3))
        pixels[..., names.index(label) % 3] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "train" / f"{number:03}.png")
        lines.append(",".join([f"{number:03}.png", label, *([people[number]] if people is not None else [])]))
    (folder / "train" / "metadata.csv").write_text("\n".join(lines))
    options = {"min_images_per_class": 0}
    who = "identity" if people is not None else None
    return Task(name="folder", dataset="imagefolder", data_dir=str(folder), options=options, group_by=who)


def blind_encoder(folder: Path) -> Encoder:
    """Its last convolution answers the same to everything, and its trunk does not: only what trains there can see."""
    encoder = load_encoder("small-face", pretrained=False, channels=(8, "pool", "pool", 12), embedding_size=4)
    for parameter in encoder.parameters():
        parameter.data.normal_(0.1, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    conv, norm = encoder.chain[5], encoder.chain[6]
    conv.weight.data.zero_()
    norm.weight.data.fill_(1.0)
    norm.bias.data.fill_(1.0)
    save_encoder(encoder, folder)
    return Encoder(name="blind", source=str(folder))


def tuned(folder: Path, task: Task, encoder: Encoder | None = None, **changes: Any) -> TuneResult:
    """A short tuning, in two rungs."""
    encoder = tiny_encoder(folder.parent / "encoder") if encoder is None else encoder
    settings = {"epochs": 2, "folds": 2, "arguments": {"per_device_train_batch_size": 16, "views": 1}}
    return tune(task, encoder, folder, **{**settings, "disable_tqdm": True, **changes})


def told(result: TuneResult) -> list[tuple[Any, ...]]:
    """What the candidates reached, without their seconds."""
    return [(each.name, each.epochs, each.scores, each.numbers, each.problem) for each in result.tried]
