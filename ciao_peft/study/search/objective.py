"""What every trial of a search trains and is scored on: parts of the training split, never the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...config import CIAOConfig
from ...data import hold_out, labels_of, load_faces
from ...data.labels import LabelSet
from ...encoders import load_encoder
from ...errors import ConfigError, DataError, listed
from ...features import FeatureDataset, cache_features
from ...losses import check_labels
from ...metrics import compute_metrics
from ...model import get_ciao_model
from ...trainer import CIAOTrainer, CIAOTrainingArguments
from ..data import metric_of
from ..plan import Encoder, Method, Task, names_in_files
from ..presets import METHODS
from ..records import PROTOCOL_VERSION
from ..training import mean_answers


class GivenUp(Exception):
    """Raised by whoever is told of a score, to end the training."""


class Objective:
    """One task and encoder, and how a trial is scored on them.

    Args:
        task, encoder, method: What is searched for.
        folder: For the stored features.
        epochs: Passes over the training part.
        fraction: Share of the training split that is held out.
        splits: How often something else is held out.
        seed: Of who is held out, and of the trainings.
        arguments: Of `CIAOTrainingArguments`, for every trial alike.

    Raises:
        ConfigError: the method trains on no stored features, or there is no such metric.
        DataError: the task's data cannot be read.
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        method: Method,
        folder: Path,
        *,
        epochs: float,
        fraction: float,
        splits: int,
        seed: int,
        arguments: Mapping[str, Any],
    ):
        searchable = [m.name for m in METHODS.values() if m.baseline is None and m.needs == "features"]
        if method.baseline is not None or method.needs != "features":
            raise ConfigError(
                f"The method {method.name!r} has no decision layer on stored features. Those that have: "
                f"{listed(searchable)}."
            )
        self.task, self.encoder, self.method = task, encoder, method
        self.epochs, self.fraction, self.splits, self.seed = float(epochs), fraction, splits, seed
        self.arguments = dict(arguments)
        self.backbone = load_encoder(encoder.source)
        self.labels, stored, self.parts = held_out_parts(task, self.backbone, folder, fraction, splits, seed)
        self.data: str = stored.key["data"]
        self.metric = metric_of(task, self.labels)

    def settings(self) -> dict[str, Any]:
        """What decides the scores, as plain data; where the files lie does not."""
        return {
            "task": {name: value for name, value in asdict(self.task).items() if name != "data_dir"},
            "data": self.data,
            "encoder": self.encoder.name,
            "encoder_revision": self.backbone.revision,
            "method": names_in_files(asdict(self.method)),
            "protocol": PROTOCOL_VERSION,
            "epochs": self.epochs,
            "fraction": self.fraction,
            "splits": self.splits,
            "seed": self.seed,
            "arguments": self.arguments,
        }

    def score(self, method: Method, report: Callable[[int, float], None]) -> float:
        """Trains and scores, with every split in turn.

        Args:
            method: With a trial's choice.
            report: Told the number of epochs done, over all splits, and the mean score of the splits begun; of rows by
                themselves, also where `task.average_by` makes several of them one thing.

        Returns:
            The mean over the splits of the score after the last epoch; of answers averaged by `task.average_by`.

        Raises:
            GivenUp: `report` did.
            DivergenceError: it diverged.
        """
        config = CIAOConfig(**{**self.labels.as_config(), **self.task.config, **method.config, "init_seed": self.seed})
        arguments = CIAOTrainingArguments(
            **{"num_train_epochs": self.epochs, "seed": self.seed, "report_to": "none", "disable_tqdm": True}
            | self.arguments
            | dict(method.arguments)
        )
        scores: list[float] = []
        epochs_done = 0

        def on_log(entry: dict[str, Any]) -> None:
            nonlocal epochs_done
            if f"eval_{self.metric}" in entry:
                epochs_done += 1
                scores[-1] = entry[f"eval_{self.metric}"] or 0.0
                report(epochs_done, float(np.mean(scores)))

        for train, held_out, things in self.parts:
            scores.append(0.0)
            model = get_ciao_model(self.backbone, config)
            try:
                trainer = CIAOTrainer(model, arguments, on_log=on_log)
                trainer.train(train, held_out)
                if things is not None:
                    logits = trainer.predict(held_out).logits
                    averaged = mean_answers(logits, check_labels(torch.as_tensor(held_out.labels), config), things)
                    scores[-1] = float(compute_metrics(*averaged, config)[self.metric])
            finally:
                model.unload()
        return float(np.mean(scores))


def held_out_parts(
    task: Task, backbone: nn.Module, folder: Path, fraction: float, splits: int, seed: int
) -> tuple[LabelSet, FeatureDataset, list[tuple[FeatureDataset, FeatureDataset, list[str] | None]]]:
    """The training split's labels, its stored features, and its parts: to train on, held out, and which of the latter
    are one thing (`None` where each is by itself).

    Whoever `task.group_by` names is in one part alone, and so are rows that `task.average_by` makes one thing.

    Raises:
        DataError: the task's data cannot be read.
        ConfigError: the task is tested fold by fold.
    """
    from datasets import Dataset
    from filelock import FileLock

    if task.options.get("fold") == "all":
        raise ConfigError(
            f"The task {task.name!r} is tested on every row, fold by fold, so a search on all of them would see what "
            "is tested. Name one fold in the task's options, such as `fold=0`, and search on the training split of it."
        )
    faces = load_faces(task.dataset, task.data_dir, **dict(task.options))["train"]
    group_by = task.group_by or task.average_by
    for column in (group_by, task.average_by):
        if column is not None and column not in faces.column_names:
            raise DataError(
                f"The task {task.name!r} names the column {column!r}; there are {listed(faces.column_names)}."
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # whoever else searches waits for the one that stores them
        stored = cache_features(backbone, faces, folder)
    columns = {"row": list(range(len(faces)))} | ({group_by: list(faces[group_by])} if group_by else {})
    parts = []
    for number in range(splits):
        halves = hold_out(Dataset.from_dict(columns), fraction, group_by=group_by, seed=seed + number)
        train, held = (list(half["row"]) for half in halves)
        things = None if task.average_by is None else [faces[task.average_by][row] for row in held]
        parts.append((stored.select(train), stored.select(held), things))
    return labels_of(faces), stored, parts
