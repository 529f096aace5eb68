"""The losses of many trainings, each on its own batch, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...config import CIAOConfig
from ...contrastive import dense_loss
from ...labels import contrastive_targets, widest_dtype
from ...losses import contrastive_loss, task_loss
from ...probabilities import adjusted_logits

__all__ = ["LossNumbers", "sample_targets", "stacked_losses"]

MOST_AT_ONCE = 2**27
"""Similarities of samples that are in memory together; of larger batches one training's after the other."""


def sample_targets(labels: Tensor, config: CIAOConfig) -> Tensor | None:
    """What makes pairs of samples, `(N,)`, where it can be told of each sample by itself; else None.

    Args:
        labels: Of all samples.
        config: Of the adapter.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> sample_targets(torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]), config)
        tensor([1, 0])
    """
    if config.problem_type == "multi_label_classification" and config.multi_label_positives == "jaccard":
        return None
    return contrastive_targets(labels, config)


class LossNumbers(NamedTuple):
    """What the losses of K trainings differ in, on their device: made once, so that no update waits for a copy.

    Args:
        temperatures: `(K, 1, 1)`, in the widest floating point.
        weights: Of the contrastive loss, `(K,)`.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, temperature=0.5)
        >>> LossNumbers.of([config, config], torch.device("cpu")).temperatures.flatten()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    temperatures: Tensor
    weights: Tensor

    @classmethod
    def of(cls, configs: Sequence[CIAOConfig], device: torch.device) -> LossNumbers:
        """Those of adapters with these configs."""
        exact = widest_dtype(device)
        temperatures = torch.tensor([each.temperature for each in configs], dtype=exact, device=device)
        weights = torch.tensor([each.contrastive_weight for each in configs], dtype=torch.float32, device=device)
        return cls(temperatures[:, None, None], weights)


def stacked_losses(
    logits: Tensor,
    z: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    configs: Sequence[CIAOConfig],
    numbers: LossNumbers | None = None,
) -> Tensor:
    """Loss, task loss and contrastive loss (Eq. 5) of each of K trainings.

    Args:
        logits: `(K, B, num_labels)`.
        z: Embeddings, `(K, B, D)`.
        labels: `(K, B)` or `(K, B, num_labels)`.
        targets: `(K, B)`, as `sample_targets` gives them for the samples of each batch.
        configs: Of the adapters; alike but for temperature, weight, bins and the like.
        numbers: Of the same; made here when left out.

    Returns:
        `(K, 3)`, as `total_loss` gives them.

    Example:
        >>> from ciao_peft.losses import total_loss
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> logits, z, labels = torch.rand(2, 4, 2), torch.rand(2, 4, 8), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
        >>> both = stacked_losses(logits, z, labels, labels, [config, config])
        >>> torch.allclose(both[1], torch.stack(total_loss(logits[1], z[1], labels[1], config)))
        True
    """
    if any(config.logit_adjustment for config in configs):  # each by the frequencies of its own classes
        logits = torch.stack([adjusted_logits(*own) for own in zip(logits, configs, strict=True)])
    config = replace(configs[0], logit_adjustment=0.0)
    task = torch.vmap(lambda own, truth: task_loss(own, truth, config))(logits, labels)
    if config.contrastive_weight == 0:
        return torch.stack([task, task, torch.zeros_like(task)], dim=1)
    numbers = LossNumbers.of(configs, z.device) if numbers is None else numbers
    if z.shape[0] * z.shape[1] ** 2 <= MOST_AT_ONCE:
        if targets is None:
            targets = torch.stack([contrastive_targets(*pair) for pair in zip(labels, configs, strict=True)])
        denominator, summed = config.contrastive_denominator, config.contrastive_reduction == "sum"
        contrastive = dense_loss(z, targets, numbers.temperatures, denominator, summed).to(task.dtype)
    else:
        contrastive = torch.stack([contrastive_loss(*own) for own in zip(z, labels, configs, strict=True)])
    return torch.stack([task + numbers.weights * contrastive, task, contrastive], dim=1)
