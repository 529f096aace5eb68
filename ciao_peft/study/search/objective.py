"""What every trial of a search trains and is scored on: parts of the training split, never the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ...errors import ConfigError, DivergenceError, listed
from ...features import FeatureDataset
from ..data import Material, load_study_encoder, load_training_split
from ..plan import Encoder, Method, Plan, Run, Task, names_in_files
from ..presets import METHODS
from ..records import PROTOCOL_VERSION
from ..training import Training, train_together


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

    task: Task
    encoder: Encoder
    method: Method
    epochs: float
    fraction: float
    splits: int
    seed: int
    arguments: dict[str, Any]
    material: Material
    backbone: nn.Module
    metric: str
    features: FeatureDataset

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
        loaded = load_training_split(task)
        loaded.held_out(loaded.folds[0], fraction, seed)  # a fraction that cannot be held out is refused at once
        self._folder = folder
        self.material = Material(loaded, load_study_encoder(encoder), folder, disable_tqdm=True)
        self.backbone, self.metric = self.material.encoder.module, loaded.metric
        self.features = self.material.splits(loaded.folds[0], "features")["train"]

    def parts(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What another process makes the same of: positional and named arguments of this class."""
        names = ("epochs", "fraction", "splits", "seed", "arguments")
        named = {name: getattr(self, name) for name in names}
        return (self.task, self.encoder, self.method, self._folder), named

    def settings(self) -> dict[str, Any]:
        """What decides the scores, as plain data; where the files lie does not."""
        return {
            "task": {
                name: value
                for name, value in asdict(self.task).items()
                if name != "data_dir" and (name, value) != ("train_fraction", None)  # as searches of old have it
            },
            "data": self.features.key["data"],
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
        scores: list[float] = []
        epochs_done = 0

        def on_epoch(score: float) -> None:
            nonlocal epochs_done
            epochs_done += 1
            report(epochs_done, float(np.mean([*scores, score])))

        for number in range(self.splits):
            record = self._training(method, number, on_epoch).train()
            if record.error is not None:
                raise DivergenceError(record.error)
            scores.append(record.score)
        return float(np.mean(scores))

    def scores_at_once(
        self, methods: Sequence[Method], reports: Sequence[Callable[[int, float], None]]
    ) -> list[float | None]:
        """`score` of several methods, whose trainings run at once where they are alike.

        Args:
            methods: With the choices of some trials.
            reports: Of each.

        Returns:
            Their scores; None for one that diverged.
        """
        scores: list[list[float]] = [[] for _ in methods]
        epochs_done = [0] * len(methods)
        going = [*range(len(methods))]

        def on_epoch(place: int, score: float) -> None:
            epochs_done[place] += 1
            reports[place](epochs_done[place], float(np.mean([*scores[place], score])))

        for number in range(self.splits):
            trainings = [self._training(methods[place], number, partial(on_epoch, place)) for place in going]
            for place, record in zip([*going], train_together(trainings), strict=True):
                if isinstance(record, Exception):
                    raise record
                if record.error is not None:
                    going.remove(place)
                else:
                    scores[place].append(record.score)
        return [float(np.mean(own)) if place in going else None for place, own in enumerate(scores)]

    def _training(self, method: Method, number: int, on_epoch: Callable[[float], None]) -> Training:
        """The training of a method on one of the splits."""
        plan = Plan(
            tasks=(self.task,),
            encoders=(self.encoder,),
            methods=(method,),
            epochs=self.epochs,
            arguments=self.arguments,
            search_fraction=self.fraction,
        )
        run = Run(task=self.task, encoder=self.encoder, method=method, seed=self.seed, split="validation")
        return Training(run, plan, self.material, held_out_seed=self.seed + number, on_epoch=on_epoch)
