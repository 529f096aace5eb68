"""Eq. 2-5 and the task losses, as plain functions of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._shapes import Float, Int
from .config import CIAOConfig
from .contrastive import supervised_contrastive_loss
from .labels import Labels, check_labels, contrastive_targets, discretise, jaccard_overlap, widest_dtype
from .probabilities import adjusted_logits
from .prototypes import with_prototypes

__all__ = [
    "Losses",
    "check_labels",
    "concordance_loss",
    "contrastive_loss",
    "contrastive_targets",
    "discretise",
    "jaccard_overlap",
    "supervised_contrastive_loss",
    "task_loss",
    "total_loss",
    "with_views",
]


def contrastive_loss(
    embeddings: Float[Tensor, "batch dim"],
    labels: Labels,
    config: CIAOConfig,
    prototypes: Float[Tensor, "classes dim"] | None = None,
    views: tuple[Float[Tensor, "unlabelled dim"], Float[Tensor, "unlabelled dim"]] | None = None,
) -> Float[Tensor, ""]:
    """`L_CIAO` of Eq. 4 with the settings of an adapter, before it is multiplied by its weight.

    It is `supervised_contrastive_loss` of `contrastive_targets`. With `contrastive_prototypes`, the batch has one more
    sample of each class, which counts like any other: as an anchor, as a positive, in denominators and in the sizes of
    batch and classes (`ciao_peft.prototypes.with_prototypes`). A class without a sample in the batch is then among
    what the others are pushed away from, and a sample that is the only one of its class has a positive.

    Args:
        embeddings: z of Eq. 2, `(B, D)`.
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives `temperature`, `contrastive_denominator`, `contrastive_reduction`, and what makes a positive pair.
        prototypes: `(num_labels, D)`, the learned ones, with `contrastive_prototypes="learned"`.
        views: z of two views of each of U samples without labels, `(U, D)` each, which join the batch (`with_views`).

    Returns:
        A scalar in float32 or wider.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, temperature=1.0, num_bins=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> labels = torch.tensor([[0.2], [0.9], [-0.5]])  # the first two fall into one half of the range
        >>> contrastive_loss(embeddings, labels, config)  # log(1 + exp(-2))
        tensor(0.1269)
    """
    embeddings, targets = with_prototypes(embeddings, contrastive_targets(labels, config), config, prototypes)
    if views is not None:
        embeddings, targets = with_views(embeddings, targets, *views)
    return supervised_contrastive_loss(
        embeddings,
        targets,
        temperature=config.temperature,
        denominator=config.contrastive_denominator,
        reduction=config.contrastive_reduction,
    )


def with_views(
    embeddings: Float[Tensor, "rows dim"],
    targets: Int[Tensor, " rows"] | Float[Tensor, "rows rows"],
    learning: Float[Tensor, "unlabelled dim"],
    deciding: Float[Tensor, "unlabelled dim"],
) -> tuple[Float[Tensor, "more dim"], Int[Tensor, " more"] | Float[Tensor, "more more"]]:
    """A batch of the contrastive loss with two views of each unlabelled picture, which are a positive pair (Eq. 6).

    An unlabelled picture shares a class with nobody: its other view is its one positive, and everybody else is among
    what it is pushed away from, as in SimCLR (Chen et al. 2020). Positives of labelled samples stay as they are.

    Args:
        embeddings: z of the labelled samples, `(B, D)`.
        targets: `(B,)` class ids or `(B, B)` weights of pairs, as `contrastive_targets` gives them.
        learning, deciding: z of the two views, `(U, D)` each.

    Returns:
        `(B + 2 U, D)`, and `(B + 2 U,)` ids or `(B + 2 U, B + 2 U)` weights.

    Example:
        >>> z, ids = with_views(torch.rand(2, 8), torch.tensor([0, 3]), torch.rand(2, 8), torch.rand(2, 8))
        >>> z.shape, ids.tolist()
        (torch.Size([6, 8]), [0, 3, 4, 5, 4, 5])
    """
    rows = torch.cat([embeddings, learning.to(embeddings.dtype), deciding.to(embeddings.dtype)])
    count = len(learning)
    if targets.ndim == 1:
        first = int(targets.max()) + 1 if len(targets) else 0
        own = first + torch.arange(count, dtype=targets.dtype, device=targets.device)
        return rows, torch.cat([targets, own, own])
    pairs = torch.eye(count, dtype=targets.dtype, device=targets.device).repeat(2, 2)
    return rows, torch.block_diag(targets, pairs)


def concordance_loss(
    predictions: Float[Tensor, "batch values"], labels: Float[Tensor, "batch values"]
) -> Float[Tensor, ""]:
    r"""One minus Lin's concordance correlation coefficient, averaged over the regressed values.

    $$L = 1 - \frac{1}{V} \sum_{v=1}^{V} \frac{2 s_{pt}}{s_p^2 + s_t^2 + (\bar p - \bar t)^2}$$

    `p` are the predictions and `t` the labels of one value over the batch; variances `s^2` and covariance `s_pt`
    divide by B. Predictions and labels that are constant and equal agree wholly, so that 0/0 counts as 1, as in
    `ciao_peft.metrics.concordance`.

    Args:
        predictions: `(B, V)`, floating point.
        labels: `(B, V)`, floating point.

    Returns:
        A scalar from 0 to 2, in float32 or wider. The sums run in float64 wherever the device has it.

    Example:
        >>> labels = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> [round(concordance_loss(factor * labels, labels).item(), 4) for factor in (1, 0.5, -1)]
        [0.0, 0.2, 2.0]
    """
    p, t = predictions.to(widest_dtype(predictions.device)), labels.to(widest_dtype(labels.device))
    # Counted from the first sample: the mean of equal values is not always that value, that of zeros is.
    first_p, first_t = p[:1].detach(), t[:1]
    p, t = p - first_p, t - first_t
    mean_p, mean_t = p.mean(dim=0), t.mean(dim=0)
    covariance = ((p - mean_p) * (t - mean_t)).mean(dim=0)
    shift = first_p - first_t + mean_p - mean_t
    spread = ((p - mean_p) ** 2).mean(dim=0) + ((t - mean_t) ** 2).mean(dim=0) + shift**2
    differs = spread > 0
    concordance = torch.where(differs, 2 * covariance / torch.where(differs, spread, 1.0), 1.0)
    return (1 - concordance).mean().to(torch.promote_types(predictions.dtype, torch.float32))


def task_loss(logits: Float[Tensor, "batch num_labels"], labels: Labels, config: CIAOConfig) -> Float[Tensor, ""]:
    """`L_dm` of Eq. 5: the supervised loss on the logits.

    - `"single_label_classification"`: cross-entropy with class ids or distributions, of `adjusted_logits`;
    - `"multi_label_classification"`: binary cross-entropy, averaged over the labels;
    - `"regression"`: mean squared error, or `concordance_loss` where `regression_loss` is `"ccc"`.

    Args:
        logits: `(B, num_labels)`.
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives `problem_type`, `logit_adjustment` and `regression_loss`.

    Returns:
        A scalar in float32, the mean over the batch.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=4)
        >>> task_loss(torch.zeros(2, 4), torch.tensor([0, 3]), config)  # log(4): all four are equally likely
        tensor(1.3863)
    """
    logits = logits.float()
    if config.problem_type == "single_label_classification":
        return F.cross_entropy(adjusted_logits(logits, config), labels)
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    return concordance_loss(logits, labels) if config.regression_loss == "ccc" else F.mse_loss(logits, labels)


class Losses(NamedTuple):
    """The losses of one batch, scalars in float32 or wider.

    Args:
        loss: `L_all` of Eq. 5, `task_loss + contrastive_weight * contrastive_loss`.
        task_loss: `L_dm` of Eq. 5.
        contrastive_loss: `L_CIAO` of Eq. 4, before it is multiplied by its weight; 0 where the weight is 0.

    Example:
        >>> losses = Losses(loss=torch.tensor(1.5), task_loss=torch.tensor(1.0), contrastive_loss=torch.tensor(0.5))
        >>> {name: value.item() for name, value in losses._asdict().items()}
        {'loss': 1.5, 'task_loss': 1.0, 'contrastive_loss': 0.5}
    """

    loss: Float[Tensor, ""]
    task_loss: Float[Tensor, ""]
    contrastive_loss: Float[Tensor, ""]


def total_loss(
    logits: Float[Tensor, "batch num_labels"],
    embeddings: Float[Tensor, "batch dim"],
    labels: Labels,
    config: CIAOConfig,
    prototypes: Float[Tensor, "classes dim"] | None = None,
    views: tuple[Float[Tensor, "unlabelled dim"], Float[Tensor, "unlabelled dim"]] | None = None,
) -> Losses:
    r"""The loss of an adapter and its two parts (Eq. 5).

    $$L_{all} = L_{dm} + \lambda L_{CIAO}$$

    With `contrastive_weight=0` the contrastive loss is not computed, and counts as 0.

    Args:
        logits: `(B, num_labels)`.
        embeddings: z of Eq. 2, `(B, D)`.
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives both losses their settings, and λ as `contrastive_weight`.
        prototypes, views: As for `contrastive_loss`.

    Returns:
        `L_all`, `L_dm` and `L_CIAO` by name.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2, contrastive_weight=0.5)
        >>> logits, embeddings, labels = torch.rand(4, 2), torch.rand(4, 8), torch.tensor([0, 0, 1, 1])
        >>> total, task, contrastive = total_loss(logits, embeddings, labels, config)
        >>> bool(total == task + 0.5 * contrastive)
        True
    """
    task = task_loss(logits, labels, config)
    if config.contrastive_weight == 0:
        return Losses(task, task, torch.zeros_like(task))
    contrastive = contrastive_loss(embeddings, labels, config, prototypes, views)
    return Losses(task + config.contrastive_weight * contrastive, task, contrastive)
