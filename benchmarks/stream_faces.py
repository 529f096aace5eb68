"""The faces that benchmarks/streams.py learns from: read once by the frozen encoder, and kept as features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from encoder_map import METHODS, model_on, rows_of_others
from torch import Tensor

from ciao_peft import CIAOConfig, CIAOModel, cache_features, load_faces
from ciao_peft.data import labels_of
from ciao_peft.features import FeatureDataset

ENCODER = "dlib-face-3-aligned"
METHOD = "compact: gain, ranks 16, no contrastive"
OF_A_PERSON = 60  # faces at most, so that nobody is most of what is learned
TRAINING = 4500
PAINTED: dict[str, Any] = {"num_train": 2400, "num_validation": 0, "num_test": 900, "images_per_identity": 30}


@dataclass(frozen=True)
class Faces:
    """Features of faces, and whose they are.

    Args:
        features: Of all faces, with their labels.
        people: Number of the person on each face, `(N,)`.
        tests: Whether a face is of the test split, `(N,)`; its people are in no other.
        config: Settings of an adapter for them.
    """

    features: FeatureDataset
    people: Tensor
    tests: Tensor
    config: CIAOConfig

    def model(self, seed: int) -> CIAOModel:
        """The encoder with a new adapter, `default`."""
        from dataclasses import replace

        return model_on(ENCODER, replace(self.config, init_seed=seed)).eval()


def real_faces(data_dir: str, folder: Path) -> Faces:
    """Photographs: all faces of rare classes, some of the others, and the test faces of people not in training."""
    both = load_faces("imagefolder", data_dir, label_column="expression")
    train, test = both["train"], both["test"]
    few, rest = [], []
    counts = torch.bincount(torch.tensor(train["label"]))
    of_person: dict[Any, int] = {}
    labels, people = list(train["label"]), list(train["identity"])
    for row in torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist():
        of_person[people[row]] = of_person.get(people[row], 0) + 1
        if counts[labels[row]] < 1000:
            few.append(row)
        elif of_person[people[row]] <= OF_A_PERSON:
            rest.append(row)
    rows = sorted(few + rest[: max(0, TRAINING - len(few))])
    return _stored(train.select(rows), test.select(rows_of_others(both)), folder)


def painted_faces(folder: Path, world: str = "eight", **sizes: int) -> Faces:
    """Painted faces, thirty of each person."""
    both = load_faces("painted_faces", world=world, **{**PAINTED, **sizes})
    return _stored(both["train"], both["test"], folder)


def _stored(train: Dataset, test: Dataset, folder: Path) -> Faces:
    keep = ["image", "label", "identity"]
    faces = concatenate_datasets([train.select_columns(keep), test.select_columns(keep)])
    settings, _ = METHODS[METHOD]
    config = CIAOConfig.preset("paper", **labels_of(faces).as_config(), **settings)
    numbers: dict[Any, int] = {}
    people = torch.tensor([numbers.setdefault(who, len(numbers)) for who in faces["identity"]])
    features = cache_features(model_on(ENCODER, config), faces, folder, views=1, dtype="float16")
    return Faces(features, people, torch.arange(len(faces)) >= len(train), config)
