"""What an update cost elsewhere: a score on faces that no update learns, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import CIAOConfig
from ..metrics import compute_metrics, main_metric
from .rows import Faces

__all__ = ["GuardScore", "score"]


@dataclass(frozen=True)
class GuardScore:
    """A score on the guard.

    Args:
        points: The main metric of the problem times 100: accuracy, concordance, or macro F1.
        by_label: Points of each label or value by its name: recall of a class, F1 of a label, concordance of a value.
            A class without a face in the guard is left out.
    """

    points: float
    by_label: dict[str, float]


@torch.no_grad()
def score(
    faces: Faces,
    config: CIAOConfig,
    read: Callable[[Sequence[Tensor]], Tensor],
    shares: Mapping[int, float] | None = None,
    batch_size: int = 256,
) -> GuardScore:
    """Scores an adapter on a guard.

    Args:
        faces: The guard, one face or more.
        config: Of the adapter.
        read: From features to logits.
        shares: How frequent each class is where it counts; as in the guard when left out.
        batch_size: Faces read at once.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, id2label={0: "a", 1: "b"})
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> guard = Faces((logits,), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        >>> score(guard, config, lambda tensors: tensors[0])
        GuardScore(points=66.66666666666666, by_label={'a': 50.0, 'b': 100.0})
    """
    parts = [
        read(tuple(tensor[start : start + batch_size] for tensor in faces.tensors))
        for start in range(0, len(faces), batch_size)
    ]
    logits, labels = torch.cat(parts).cpu(), faces.padded(config.num_labels).labels
    single = config.problem_type == "single_label_classification"
    given = labels.argmax(dim=1) if single else labels
    scores = compute_metrics(logits, given, config)
    points = 100 * scores[main_metric(config.problem_type)]
    if not single:
        prefix = "concordance_" if config.problem_type == "regression" else "f1_"
        return GuardScore(points, {name: 100 * scores[f"{prefix}{name}"] for name in config.id2label.values()})
    answers, by_label = logits.argmax(dim=1), {}
    for index, name in config.id2label.items():
        own = given == index
        if bool(own.any()):
            by_label[name] = 100 * (answers[own] == index).double().mean().item()
    if shares is not None:
        own = {name: shares.get(index, 0.0) for index, name in config.id2label.items() if name in by_label}
        total = sum(own.values())
        points = sum(own[name] * by_label[name] for name in own) / total if total else points
    return GuardScore(points, by_label)
