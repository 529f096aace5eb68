"""A learner goes through a stream, and is tested on everything after each experience."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import DataError
from ...features import FeatureDataset, batches_of
from ...metrics import average_accuracy, backward_transfer, forgetting, forward_transfer
from ...model import CIAOModel
from ...trainer import CIAOTrainer, CIAOTrainingArguments
from .learner import Learner, Untouched
from .stream import Stream

__all__ = ["StreamScores", "jointly", "run_stream"]


@dataclass(frozen=True)
class StreamScores:
    """What a learner reached on a stream.

    Args:
        before: Accuracy on the test of each experience before the stream, `(T,)`.
        accuracies: The same after each experience, `(T, T)`; one row for what learned everything at once.
        others: Accuracy on people who are never met, before the stream and after each experience; empty without any.
        seconds: Of the processor, in this thread, for each call of `observe`.
        memory_bytes: What the learner kept in the end besides its adapter.
    """

    before: list[float]
    accuracies: list[list[float]]
    others: list[float]
    seconds: list[float]
    memory_bytes: int

    def measures(self) -> dict[str, float]:
        """Average accuracy and what is known of: forgetting, transfer, the final accuracy on others, their mean.

        `both` is the mean of the average accuracy and that on others.

        Example:
            >>> scores = StreamScores([0.5, 0.5], [[0.75, 0.5], [0.5, 1.0]], [0.5, 0.5, 0.25], [], 0)
            >>> scores.measures()["average_accuracy"], scores.measures()["forgetting"], scores.measures()["both"]
            (0.75, 0.25, 0.5)
        """
        found: dict[str, float] = {"average_accuracy": sum(self.accuracies[-1]) / len(self.accuracies[-1])}
        if len(self.accuracies) == len(self.before) > 1:
            found["average_accuracy"] = average_accuracy(self.accuracies)
            found["forgetting"] = forgetting(self.accuracies)
            found["backward_transfer"] = backward_transfer(self.accuracies)
            found["forward_transfer"] = forward_transfer(self.accuracies, self.before)
        if self.others:
            found["others"] = self.others[-1]
            found["both"] = (found["average_accuracy"] + self.others[-1]) / 2
        return found


def run_stream(learner: Learner, stream: Stream, features: FeatureDataset, *, batch_size: int = 10) -> StreamScores:
    """Lets a learner go through a stream: each sample arrives once, in batches of a few.

    Args:
        learner: New; it is changed.
        stream: Numbers of samples of `features`.
        features: With class labels.
        batch_size: Samples that arrive together.

    Raises:
        DataError: the features have no labels.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, cache_features, get_ciao_model
        >>> from ciao_peft.study.streams import class_incremental
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> stored = cache_features(model, [{"pixel_values": torch.rand(3, 8, 8), "labels": n % 2} for n in range(8)])
        >>> stream = class_incremental(stored.labels, range(4), range(4, 8), at_once=1)
        >>> sorted(run_stream(Untouched(model, "default"), stream, stored).measures())
        ['average_accuracy', 'backward_transfer', 'forgetting', 'forward_transfer']
    """
    labels = _labels(features)
    if stream.known:
        learner.know(features.select(stream.known).with_labels(labels[list(stream.known)]))
    before, others = _tests(learner, stream, features, labels)
    found, seen, seconds = [], [others], []
    for experience in stream.experiences:
        for rows in batches_of(experience.rows, batch_size, len(features)):
            arrived = _read(features, rows)
            began = time.thread_time()
            learner.observe(arrived, labels[rows])
            seconds.append(time.thread_time() - began)
        rows = list(experience.rows)
        learner.finish(_read(features, rows), labels[rows])
        scores, others = _tests(learner, stream, features, labels)
        found.append(scores)
        seen.append(others)
    on_others = [score for score in seen if score is not None]
    return StreamScores(before, found, on_others, seconds, learner.memory_bytes)


def jointly(
    model: CIAOModel, adapter_name: str, stream: Stream, features: FeatureDataset, args: CIAOTrainingArguments
) -> StreamScores:
    """Trains on everything at once, what was known before and what arrives: the upper bound.

    Args:
        model, adapter_name: A new adapter, which is trained.
        stream, features: As for `run_stream`.
        args: How the trainer trains.

    Raises:
        DataError, TrainingError: as for `CIAOTrainer.train`.

    Example:
        >>> from torch import nn
        >>> from ciao_peft import CIAOConfig, cache_features, get_ciao_model
        >>> from ciao_peft.study.streams import class_incremental
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(net, config, input_size=(3, 8, 8))
        >>> stored = cache_features(model, [{"pixel_values": torch.rand(3, 8, 8), "labels": n % 2} for n in range(8)])
        >>> stream = class_incremental(stored.labels, range(4), range(4, 8), at_once=1)
        >>> args = CIAOTrainingArguments(max_steps=1, disable_tqdm=True)
        >>> len(jointly(model, "default", stream, stored, args).accuracies)
        1
    """
    labels = _labels(features)
    learner = Untouched(model, adapter_name)
    before, _ = _tests(learner, stream, features, labels)
    model.set_adapter(adapter_name)
    CIAOTrainer(model, args, adapter_name).train(features.select([*stream.known, *stream.rows]))
    model.eval()
    scores, others = _tests(learner, stream, features, labels)
    return StreamScores(before, [scores], [] if others is None else [others], [], 0)


def _tests(
    learner: Learner, stream: Stream, features: FeatureDataset, labels: Tensor
) -> tuple[list[float], float | None]:
    """The score of each experience, and the accuracy on others, from one answer for each sample."""
    asked = sorted({row for one in stream.experiences for row in one.test} | set(stream.others))
    answers = [learner.predict(_read(features, rows)) for rows in batches_of(asked, 256, len(features))]
    right = torch.zeros(len(features), dtype=torch.bool)
    right[asked] = torch.cat(answers) == labels[asked]
    scores = [one.score(right[list(one.test)]) for one in stream.experiences]
    return scores, right[list(stream.others)].double().mean().item() if stream.others else None


def _labels(features: FeatureDataset) -> Tensor:
    if features.labels is None or features.labels.ndim != 1:
        raise DataError("A stream needs features with one class for each sample.")
    return features.labels.long()


def _read(features: FeatureDataset, rows: Sequence[int]) -> tuple[Tensor, ...]:
    return features.features(rows, include_excitation=False)
