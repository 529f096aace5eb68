"""One training of a study: from a `Run` to a `Record`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..config import CIAOConfig
from ..data import clip_means, clips
from ..errors import CIAOError, ConfigError, DivergenceError, TrainingError, quoted
from ..features import check_labels_of
from ..metrics import compute_metrics, confusion_matrix
from ..model import CIAOModel, get_ciao_model
from ..presets import over_paper
from ..saving import library_versions
from ..trainer import (
    RECIPES,
    AdapterJob,
    CIAOTrainer,
    CIAOTrainingArguments,
    count_updates,
    sorted_alike,
    train_adapters,
)
from .baselines import build_baseline, fit, predict
from .data import FoldFaces, Material
from .matching import differing
from .plan import Plan, Run
from .records import PROTOCOL_VERSION, Record, Trained, history_of, key_of
from .stored_depths import StoredDepths


@dataclass(frozen=True)
class Training:
    """A run with everything that decides its result.

    Args:
        run: What to train.
        plan: The study's settings.
        material: Data and encoder.
        held_out_seed: Of who is held out in a search; the run's own when left out.
        on_epoch: Called after each epoch of a search with the score that counts, of rows by themselves.
    """

    run: Run
    plan: Plan
    material: Material
    held_out_seed: int | None = None
    on_epoch: Callable[[float], None] | None = None

    @property
    def config(self) -> CIAOConfig:
        """The adapter's settings, in full; for baselines those of the problem."""
        return CIAOConfig.from_dict(
            over_paper(self.material.loaded.labels.as_config() | self.run.config() | {"init_seed": self.run.seed})
        )

    def arguments(self, fold: str = "") -> CIAOTrainingArguments:
        """The settings of the training on a fold, in full."""
        settings = {
            **RECIPES["paper"],
            "num_train_epochs": self.plan.epochs,
            **self.plan.arguments,
            **self.run.arguments(fold),
        }
        if self.run.split == "validation" and self.plan.search_epochs is not None:
            settings["num_train_epochs"] = self.plan.search_epochs
        fixed = {"report_to": "none", "eval_strategy": "no", "disable_tqdm": True, "feature_cache": "never"}
        return CIAOTrainingArguments.from_dict({**settings, **fixed, "seed": self.run.seed})

    @property
    def key(self) -> str:
        """Equal for two runs exactly where all that decides the result is equal, and the names it is reported under."""
        config, arguments = self.config, self.arguments()
        content = {
            "protocol": PROTOCOL_VERSION,
            "names": [self.run.task.name, self.material.encoder.asked.name, self.run.method.name],
            "metric": self.material.loaded.metric,
            "task": self.material.loaded.fingerprint,
            "encoder": self.material.encoder.signature,
            "rival": self.run.method.baseline,
            "needs": self.run.method.needs,
            "settings": dict(self.run.method.settings),
            "config": differing(config.to_dict(), CIAOConfig),
            "arguments": differing(arguments.weight_settings(may_go_on=False), CIAOTrainingArguments),
            "seed": self.run.seed,
            "split": self.run.split,
            "held_out": self.plan.search_fraction if self.run.split == "validation" else None,
            "feature_dtype": self.plan.feature_dtype if self.run.method.needs == "features" else None,
        }
        if self.run.task.train_fraction is not None:
            content["train_fraction"] = self.run.task.train_fraction
        if self.material.loaded.has_folds:
            content["fold_rates"] = dict(self.run.fold_rates)
        return key_of(content)

    def train(self) -> Record:
        """Trains on every fold and scores the answers of all folds together.

        A learning rate with which training diverges is a result of the search, with an `error` in place of scores.

        Raises:
            CIAOError: this cannot be trained.
        """
        (record,) = train_together([self])
        if isinstance(record, Exception):
            raise record
        return record

    def in_folds(self) -> Generator[Fold, Trained, Record]:
        """The training as its parts: yields what is to be trained on each fold, and is sent what that gave.

        A `DivergenceError` that is thrown in is what training gave; the record is returned at the end.
        """
        # On a CPU a whole network is faster with the channels last; the last convolution alone, on stored maps, slower.
        faster = torch.channels_last if self.run.method.needs == "pixels" else torch.contiguous_format
        self.material.encoder.module.to(memory_format=faster)
        labels, logits, results = [], [], []
        samples = {"train": 0, "test": 0}
        scores: dict[str, float] = {}
        fold_scores: dict[str, float] = {}
        confusion, error = None, None
        try:
            for fold in self.material.loaded.folds:
                train, test, rows = self._data(fold)
                result = yield Fold(train, test, fold.name)
                samples = {"train": samples["train"] + len(train), "test": samples["test"] + len(test)}
                answers, truth = result.logits, check_labels_of(test, self.config, "the test split")
                if rows is not None:
                    answers, truth = mean_answers(answers, truth, rows)
                logits, labels, results = [*logits, answers], [*labels, truth], [*results, result]
                if self.material.loaded.has_folds and self.run.split == "validation":
                    fold_scores[fold.name] = compute_metrics(answers, truth, self.config)[self.material.loaded.metric]
            answers, truth = torch.cat(logits), torch.cat(labels)
            samples["scored"] = len(truth)
            scores = compute_metrics(answers, truth, self.config)
            if self.config.problem_type == "single_label_classification":
                confusion = confusion_matrix(answers.argmax(dim=1), truth, self.config.num_labels).tolist()
        except DivergenceError as problem:
            if self.run.split == "test":
                raise
            error = str(problem)
        arguments = self.run.arguments()
        if self.material.loaded.has_folds:
            samples["folds"] = len(self.material.loaded.folds)
        loaded, encoder = self.material.loaded, self.material.encoder
        return Record(
            key=self.key,
            task=loaded.task.name,
            dataset=loaded.task.dataset,
            encoder=encoder.asked.name,
            encoder_revision=encoder.revision,
            method=self.run.method.name,
            kind=self.run.method.kind,
            seed=self.run.seed,
            split=self.run.split,
            metric=loaded.metric,
            scores={name: float(value) for name, value in scores.items()},
            fold_scores=fold_scores,
            fold_rates=dict(self.run.fold_rates),
            config=self.run.config(),
            arguments=dict(self.plan.arguments) | arguments,
            settings=dict(self.run.method.settings),
            epochs=cast("float", self.arguments().num_train_epochs),
            labels=list(loaded.labels.names),
            confusion=confusion,
            history=_mean_history([result.history for result in results]),
            parameters=results[0].parameters if results else {},
            samples=samples,
            seconds=round(sum(result.seconds for result in results), 3),
            versions={**library_versions(), "threads": str(torch.get_num_threads())},
            time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            decay_starts=[result.decay_start for result in results if result.decay_start is not None],
            error=error,
        )

    def _data(self, fold: FoldFaces) -> tuple[Any, Any, list[str] | None]:
        """Training samples, those to score, and which of the latter are one thing."""
        arguments = self.arguments(fold.name)
        splits = self.material.splits(
            fold, self.run.method.needs, cast("int", arguments.views), arguments.augmentation, self._depths()
        )
        parts = [(splits[name], faces) for name, faces in fold.splits.items()]
        rows = self._rows_of_train(fold)
        if self.run.split == "validation":
            seed = self.run.seed if self.held_out_seed is None else self.held_out_seed
            rest, held = self.material.loaded.held_out(fold, self.plan.search_fraction, seed, rows)
            parts = [(splits["train"].select(part), fold.train.select(part)) for part in (rest, held)]
        elif rows is not None:
            parts[0] = splits["train"].select(rows), fold.train.select(rows)
        if self.config.frames is not None:
            train, test = (self._clips(*part) for part in parts)
            return train, test, None
        (train, _), (test, faces) = parts
        column = self.material.loaded.task.average_by
        return train, test, None if column is None else list(faces[column])

    def _depths(self) -> StoredDepths:
        """Those that are stored with the features: of all methods of the plan that train from stored features."""
        if self.run.method.baseline is not None or self.run.method.needs != "features":
            return StoredDepths()
        stored = [method for method in self.plan.methods if method.baseline is None and method.needs == "features"]
        return self.material.depths(self.run.config(), [{**self.run.task.config, **own.config} for own in stored])

    def _rows_of_train(self, fold: FoldFaces) -> list[int] | None:
        """The rows of the training split that this training may see; all of them where it is None."""
        fraction = self.run.task.train_fraction
        return None if fraction is None else self.material.loaded.held_out(fold, fraction, self.run.seed)[1]

    def _clips(self, data: Any, faces: Any) -> Any:
        """Samples of frames as clips, for a method that reads those."""
        task, name = self.material.loaded.task, self.run.method.name
        if self.run.method.baseline is not None:
            raise ConfigError(f"The baseline {quoted(name)} reads single pictures, and its settings have `frames`.")
        if task.average_by is None:
            raise ConfigError(
                f"{quoted(name)} reads clips, and the task {quoted(task.name)} has no `average_by` to tell them by."
            )
        frames = self.config.frames
        assert frames is not None  # or this method reads single pictures
        return data.clips(clips(faces, frames, task.average_by).rows)

    def fit(self, fold: Fold) -> Trained:
        """Trains on one fold.

        Raises:
            CIAOError: this cannot be trained.
        """
        if self.run.method.baseline is not None:
            return _train_baseline(self, fold.train, fold.test, self._fold_arguments(fold))
        model = get_ciao_model(self.material.encoder.module, self.config)
        try:
            trainer = CIAOTrainer(model, self._fold_arguments(fold), on_log=self._tell_epoch)
            began = time.perf_counter()
            trainer.train(fold.train, None if self.on_epoch is None else fold.test)
            return _trained(trainer, fold, time.perf_counter() - began)
        finally:
            model.unload()

    def job(self, adapter_name: str, fold: Fold) -> AdapterJob:
        """The training on one fold as one of several of `train_adapters`."""
        return AdapterJob(adapter_name=adapter_name, args=self._fold_arguments(fold), on_log=self._tell_epoch)

    @property
    def shares(self) -> Hashable | None:
        """Equal for two trainings of one task and encoder that train on the same stored features; None without."""
        method = self.run.method
        if method.baseline is not None or method.needs != "features" or self.config.frames is not None:
            return None
        seed = self.run.seed if self.held_out_seed is None else self.held_out_seed
        held_out = seed if self.run.split == "validation" else None
        part = None if self.run.task.train_fraction is None else self.run.seed
        task, encoder, views = self.run.task.name, self.material.encoder.asked.name, self.arguments().views
        return task, encoder, held_out, part, views, self.on_epoch is None, self.config.depths is None

    def _fold_arguments(self, fold: Fold) -> CIAOTrainingArguments:
        arguments = self._with_a_log_per_epoch(self.arguments(fold.name), len(fold.train))
        if self.on_epoch is not None and self.run.method.baseline is None:
            arguments = replace(arguments, eval_strategy="epoch")
        return arguments

    def _tell_epoch(self, entry: dict[str, Any]) -> None:
        name = f"eval_{self.material.loaded.metric}"
        if self.on_epoch is not None and name in entry:
            self.on_epoch(entry[name] or 0.0)

    def _with_a_log_per_epoch(self, arguments: CIAOTrainingArguments, num_samples: int) -> CIAOTrainingArguments:
        steps_per_epoch, _ = count_updates(arguments, num_samples)
        return replace(arguments, logging_steps=steps_per_epoch)


class Fold(NamedTuple):
    """What is trained at a time.

    Args:
        train, test: What it learns from, and what it answers.
        name: Of the fold.
    """

    train: Any
    test: Any
    name: str


def train_together(trainings: Sequence[Training]) -> list[Record | Exception]:
    """Trains several at once, where they train on the same features and a machine is faster so; the others in turn.

    Args:
        trainings: Of any kind.

    Returns:
        For each what `Training.train` would return or raise.
    """
    running = [training.in_folds() for training in trainings]
    results: dict[int, Record | Exception] = {}
    answers: dict[int, Trained | Exception | None] = dict.fromkeys(range(len(trainings)))
    while answers:
        asked: dict[int, Fold] = {}
        for place, answer in answers.items():
            try:
                if isinstance(answer, Exception):
                    asked[place] = running[place].throw(answer)
                else:
                    asked[place] = next(running[place]) if answer is None else running[place].send(answer)
            except StopIteration as end:
                results[place] = end.value
            except Exception as error:
                results[place] = error
        answers = {}
        for places in sorted_alike([trainings[place].shares for place in asked]):
            own = [[*asked][place] for place in places]
            fitted = _fit_together([trainings[place] for place in own], [asked[place] for place in own])
            answers |= dict(zip(own, fitted, strict=True))
    return [results[place] for place in range(len(trainings))]


def _fit_together(trainings: Sequence[Training], folds: Sequence[Fold]) -> list[Trained | Exception]:
    if len(trainings) > 1:
        try:
            return _fit_at_once(trainings, folds)
        except (torch.OutOfMemoryError, CIAOError):
            pass  # one by one there may be room, and what is wrong with one of them is its own
        except Exception as error:
            return [error] * len(trainings)
    results: list[Trained | Exception] = []
    for training, fold in zip(trainings, folds, strict=True):
        try:
            results.append(training.fit(fold))
        except Exception as error:
            results.append(error)
    return results


def _fit_at_once(trainings: Sequence[Training], folds: Sequence[Fold]) -> list[Trained | Exception]:
    model = CIAOModel(trainings[0].material.encoder.module)
    try:
        for number, training in enumerate(trainings):
            model.add_adapter(str(number), training.config)
        jobs = [
            training.job(str(number), fold)
            for number, (training, fold) in enumerate(zip(trainings, folds, strict=True))
        ]
        evaluates = trainings[0].on_epoch is not None
        done = train_adapters(model, jobs, folds[0].train, folds[0].test if evaluates else None)
        results: list[Trained | Exception] = []
        for result, fold in zip(done.values(), folds, strict=True):
            if result.output is None:
                results.append(result.error or TrainingError("Training gave nothing."))
            else:
                results.append(_trained(result.trainer, fold, result.output.metrics["train_runtime"]))
        return results
    finally:
        model.unload()


def _trained(trainer: CIAOTrainer, fold: Fold, seconds: float) -> Trained:
    """What a training of an adapter on a fold gave."""
    model, name = trainer.model, trainer.adapter_name
    adapter = model.adapters[name]
    trained = sum(p.numel() for group in model.adapter_parameters(name).values() for p in group)
    total = sum(tensor.numel() for tensor in adapter.state_dict().values())
    start = adapter.config.decay_init if adapter.config.inhibition else None
    logits, parameters = trainer.predict(fold.test).logits, {"trained": trained, "adapter_total": total}
    return Trained(logits, history_of(trainer.log_history), parameters, seconds, start)


def mean_answers(logits: Tensor, labels: Tensor, things: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """One answer and one label for each thing, such as a clip, that several rows show: the mean of their answers.

    Args:
        logits: `(N, num_labels)`.
        labels: A row each, the same for all rows of a thing.
        things: Which thing each row shows.

    Example:
        >>> mean_answers(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), ["a", "a", "b"])
        (tensor([[2.],
                [5.]]), tensor([0, 1]))
    """
    means, _ = clip_means(logits.numpy(), things)
    first = {name: row for row, name in reversed(list(enumerate(things)))}
    rows = [first[name] for name in dict.fromkeys(things)]
    return torch.from_numpy(means).to(logits.dtype), labels[rows]


def _mean_history(folds: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """The mean over folds of every entry that all of them have."""
    together = zip(*folds, strict=False)
    return [{name: sum(entry[name] for entry in entries) / len(entries) for name in entries[0]} for entries in together]


def _train_baseline(training: Training, train: Any, test: Any, arguments: CIAOTrainingArguments) -> Trained:
    """One training of a study with a baseline.

    Args:
        training: The run, with its data and encoder.
        train, test: What it learns from, and what it answers.
        arguments: Of the training.
    """
    method = training.run.method
    assert method.baseline is not None  # or it is an adapter of this library
    baseline = build_baseline(method.baseline, training.material.encoder.module, training.config, **method.settings)
    fitted = fit(baseline, train, arguments)
    logits = predict(baseline, test, arguments)
    parameters = {"trained": baseline.num_trained, "adapter_total": baseline.num_stored}
    return Trained(logits, history_of(fitted.log), parameters, fitted.seconds)
