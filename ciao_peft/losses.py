"""Eq. 2-5 and the task losses, as plain functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ._shapes import Float, Int, Shaped
from .checking import check_number
from .config import CIAOConfig, Denominator, Reduction
from .errors import ConfigError, InputError, listed, quoted
from .labels import Labels, check_labels, contrastive_targets, discretise, jaccard_overlap, widest_dtype
from .probabilities import adjusted_logits

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
]


def _unit_length(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Scales rows to length 1, however short they are; zeros have no direction, stay zeros and get no gradient."""
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > 0, rows / torch.where(length > 0, length, 1.0), 0.0)


def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    denominator: Denominator = "all",
    reduction: Reduction = "mean",
    block_size: int = 256,
) -> Float[Tensor, ""]:
    r"""Pulls embeddings of one class together and pushes the classes apart (Eq. 2-4).

    $$L_i = -\frac{1}{\sum_p w_{ip}} \sum_{p \neq i} w_{ip} \log
            \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{k \in K(i)} \exp(z_i \cdot z_k / \tau)}$$

    - `z_i` is the embedding of sample i, scaled to length 1, and τ the temperature.
    - `w_ip` is the weight of a pair: 1 where two samples share their class id and 0 elsewhere, or as given.
    - `K(i)` is every other sample for `denominator="all"`, the loss of Khosla et al. 2020 that the paper cites. For
      `"negatives"`, the paper's Eq. 2 ("different labels than k"), it is only the samples with `w_ik = 0`; the loss
      then falls below zero for well separated classes. For `"class_average"`, it is every other sample, and each
      counts `B / (C n)` times, where n is how many of the batch share its class and C how many classes there are: no
      class fills the denominator because it is common (the class averaging of Zhu et al. 2022, Balanced Contrastive
      Learning, with every n counted over the whole batch). In a batch of equal classes it is `"all"`.

    An anchor i without a positive (or, for `"negatives"`, without a negative) has no term `L_i`, but it still pushes
    others away. `reduction="mean"` is the mean of `L_i` over the anchors that have a term. `"sum"` is Eq. 3-4 to the
    letter: `N - 1` in place of the number of positives, and the sum over the batch. If no anchor has a term, the loss
    and its gradient are zero.

    Args:
        embeddings: `(B, D)`, floating point. Scaled to length 1 here; rows of zeros stay zeros, without a gradient.
        labels: `(B,)` class ids, or `(B, B)` weights of the pairs, at least 0; the diagonal is ignored.
        temperature: τ, above 0.
        denominator: `"all"`, `"negatives"` or `"class_average"`.
        reduction: `"mean"` or `"sum"`.
        block_size: With class ids, the similarities of this many samples to this many others are in memory at a time,
            and are computed again for the gradient. Changes no result. Pair weights, and a τ so small that its powers
            do not fit (below 0.003 in float64), take whole `(B, B)` matrices.

    Returns:
        A scalar in float32 (in float64 for float64 embeddings). The sums run in float64 wherever the device has it:
        divided by a small τ, float32 similarities are too coarse.

    Raises:
        InputError: shapes that do not fit together.
        ConfigError: an unknown denominator or reduction, a temperature of 0 or less, a `block_size` below 1, or
            `"class_average"` with weights of pairs, which name no classes.

    Example:
        >>> pairs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> loss = supervised_contrastive_loss(pairs, torch.tensor([0, 0, 1, 1]), temperature=1.0)
        >>> torch.isclose(loss, torch.log(1 + 2 * torch.exp(torch.tensor(-2.0))))
        tensor(True)
        >>> mixed = supervised_contrastive_loss(pairs, torch.tensor([0, 1, 0, 1]), temperature=1.0)
        >>> bool(mixed > loss)  # the classes lie apart less well
        True
    """
    if not temperature > 0:
        raise ConfigError(f"`temperature` must be above 0; got {quoted(temperature)}.")
    if denominator not in get_args(Denominator) or reduction not in get_args(Reduction):
        raise ConfigError(
            f"`denominator` is one of {listed(get_args(Denominator))} and `reduction` one of "
            f"{listed(get_args(Reduction))}; got {quoted(denominator)}, {quoted(reduction)}."
        )
    if embeddings.ndim != 2 or labels.shape not in ((len(embeddings),), (len(embeddings), len(embeddings))):
        raise InputError(
            f"`embeddings` must be (B, D), with `labels` of (B,) class ids or (B, B) pair weights; "
            f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}."
        )
    if denominator == "class_average" and labels.ndim == 2:
        raise ConfigError("`denominator='class_average'` counts classes; give class ids `(B,)`, not weights of pairs.")
    check_number("block_size", block_size, int, 1)
    result_dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    settings = (float(temperature), denominator, reduction == "sum")
    # Mixed precision would take the products in half precision.
    with torch.autocast(embeddings.device.type, enabled=False):
        # exp((cos - 1) / τ) down to cos = -1, with room for a sum of them and its inverse.
        fits = 2.2 / temperature < math.log(torch.finfo(widest_dtype(embeddings.device)).max)
        if labels.ndim == 1 and fits:
            return _BlockedLoss.apply(embeddings, _group_ids(labels), settings, block_size).to(result_dtype)
        return _dense_loss(embeddings, labels, *settings).to(result_dtype)


def _dense_loss(
    embeddings: Float[Tensor, "batch dim"],
    labels: Shaped[Tensor, " batch"] | Shaped[Tensor, "batch batch"],
    temperature: float,
    denominator: Denominator,
    summed: bool,
) -> Float[Tensor, ""]:
    """The loss from whole `(B, B)` matrices, in the widest floating point."""
    exact = widest_dtype(embeddings.device)
    z = _unit_length(embeddings.to(exact))
    similarity = z @ z.T / temperature  # (B, B)
    same_sample = torch.eye(len(z), dtype=torch.bool, device=z.device)
    weights = labels if labels.ndim == 2 else labels[:, None] == labels[None, :]
    weights = weights.to(exact).masked_fill(same_sample, 0.0)
    counted = (weights == 0) & ~same_sample if denominator == "negatives" else ~same_sample
    total_weight = weights.sum(dim=1)
    is_anchor = (total_weight > 0) & counted.any(dim=1)

    # A large number rather than -inf: a row that counts nobody would be a row of -inf, whose gradient is NaN.
    in_denominator = similarity
    if denominator == "class_average":
        in_denominator = similarity + _shares(_group_ids(labels), exact).log()
    log_prob = similarity - in_denominator.masked_fill(~counted, -1e30).logsumexp(dim=1, keepdim=True)
    per_anchor = -torch.where(is_anchor, (log_prob * weights).sum(dim=1), 0.0)
    if summed:
        return per_anchor.sum() / max(len(z) - 1, 1)
    per_anchor = per_anchor / torch.where(is_anchor, total_weight, 1.0)
    return per_anchor.sum() / is_anchor.sum().clamp(min=1)


def _group_ids(labels: Shaped[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """`(B,)` numbers below B, equal exactly where the labels are; unlike `torch.unique`, in a known shape."""
    ordered, order = labels.sort()
    is_new = torch.ones_like(order)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, is_new.cumsum(dim=0) - 1)


class _BlockedLoss(torch.autograd.Function):
    """The loss without a `(B, B)` matrix: block by block, and once more for the gradient.

    Let `E_ij = exp((z_i . z_j - 1) / τ)` where j counts for i, else 0; it is symmetric, so that blocks on and above
    the diagonal do. With `Z_i` its row sums, `P_i` the number of positives and `c_i` the weight of `L_i` over `P_i`,
    the loss is

        sum_i c_i (P_i (log Z_i + 1 / τ) - z_i . (S_i - z_i) / τ),     S_i the sum of all z of i's class,

    and, c being the same for a whole class, its gradient to `z_i` is, with `a_i = c_i P_i / Z_i`,

        (sum_j E_ij (a_i + a_j) z_j - 2 c_i (S_i - z_i)) / τ.

    With `"class_average"`, `E_ij` counts `v_j` times in `Z_i`, and `a_i v_j + a_j v_i` stands for `a_i + a_j`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Float[Tensor, "batch dim"],
        group: Int[Tensor, " batch"],
        settings: tuple[float, Denominator, bool],
        block_size: int,
    ) -> Float[Tensor, ""]:
        temperature, denominator, summed = settings
        z, _ = _directions(embeddings)
        positives, weight = _anchors(group, z.dtype, denominator, summed)
        shares = _shares(group, z.dtype) if denominator == "class_average" else None
        totals = z.new_zeros(len(z))
        for rows, columns, powers in _blocks(z, group, temperature, denominator, block_size):
            totals[rows] += powers.sum(dim=1) if shares is None else powers @ shares[columns]
            if rows != columns:
                totals[columns] += powers.sum(dim=0) if shares is None else shares[rows] @ powers
        totals = torch.where(totals > 0, totals, 1.0)  # of a sample that counts nobody: no anchor
        class_weight = weight.new_zeros(len(z)).scatter_(0, group, weight)
        sums = torch.zeros_like(z).index_add_(0, group, z)
        attraction = class_weight @ sums.norm(dim=1).square_() - weight @ z.norm(dim=1).square_()
        ctx.save_for_backward(embeddings, group, totals)
        ctx.settings, ctx.block_size = settings, block_size
        return (weight * positives) @ (totals.log() + 1 / temperature) - attraction / temperature

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Float[Tensor, ""]) -> tuple[Float[Tensor, "batch dim"], None, None, None]:
        (grad,) = grad_outputs
        embeddings, group, totals = ctx.saved_tensors
        temperature, denominator, summed = ctx.settings
        with torch.autocast(embeddings.device.type, enabled=False):
            if torch.is_grad_enabled():  # the gradient of the gradient will be asked for
                loss = _dense_loss(embeddings, group, *ctx.settings)
                return *torch.autograd.grad(loss, embeddings, grad, create_graph=True), None, None, None
            z, length = _directions(embeddings)
            positives, weight = _anchors(group, z.dtype, denominator, summed)
            pull = weight * positives / totals
            shares = _shares(group, z.dtype) if denominator == "class_average" else None

            def pulls(rows: slice, columns: slice) -> Tensor:
                if shares is None:
                    return pull[rows, None] + pull[columns]
                return torch.outer(pull[rows], shares[columns]) + torch.outer(shares[rows], pull[columns])

            to_z = torch.zeros_like(z).index_add_(0, group, z).index_select(0, group)
            to_z.sub_(z).mul_(-2 * weight[:, None])
            for rows, columns, powers in _blocks(z, group, temperature, denominator, ctx.block_size):
                powers.mul_(pulls(rows, columns))
                to_z[rows].addmm_(powers, z[columns])
                if rows != columns:
                    to_z[columns].addmm_(powers.T, z[rows])
            # Through the scaling to unit length: what points along z changes nothing.
            to_z.addcmul_(torch.linalg.vecdot(to_z, z)[:, None], z, value=-1)
            scale = torch.where(length > 0, grad / temperature / torch.where(length > 0, length, 1.0), 0.0)
            return to_z.mul_(scale).to(embeddings.dtype), None, None, None


def _directions(embeddings: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch 1"]]:
    """`_unit_length` of the rows in the widest floating point, and their lengths `(B, 1)`; without a gradient."""
    z = embeddings.detach().to(widest_dtype(embeddings.device), copy=True)
    length = z.norm(dim=1, keepdim=True)
    return z.div_(torch.where(length > 0, length, 1.0)), length


def _anchors(
    group: Int[Tensor, " batch"], dtype: torch.dtype, denominator: Denominator, summed: bool
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The number of positives of each sample, and the weight of the sum over them: 0 where it is no anchor."""
    size = len(group)
    in_group = torch.zeros(size, dtype=dtype, device=group.device)
    positives = in_group.scatter_add_(0, group, torch.ones_like(in_group))[group] - 1
    is_anchor = (positives > 0) & (positives + 1 < size) if denominator == "negatives" else positives > 0
    if summed:
        return positives, is_anchor.to(dtype) / max(size - 1, 1)
    each = positives.clamp(min=1) * is_anchor.sum().clamp(min=1)
    return positives, is_anchor.to(dtype) / each


def _shares(group: Int[Tensor, " batch"], dtype: torch.dtype) -> Float[Tensor, " batch"]:
    """How often each sample counts in a denominator of `"class_average"`: B / (C n), 1 where all classes are equal."""
    in_group = torch.zeros(len(group), dtype=dtype, device=group.device)
    in_group.scatter_add_(0, group, torch.ones_like(in_group))
    return len(group) / (in_group[group] * (in_group > 0).sum())


def _blocks(
    z: Float[Tensor, "batch dim"],
    group: Int[Tensor, " batch"],
    temperature: float,
    denominator: Denominator,
    block_size: int,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and the powers E there, for the blocks on and above the diagonal."""
    largest = z.new_full((1, 1), -1 / temperature)
    for row in range(0, len(z), block_size):
        rows = slice(row, min(row + block_size, len(z)))
        for column in range(row, len(z), block_size):
            columns = slice(column, min(column + block_size, len(z)))
            powers = torch.addmm(largest, z[rows], z[columns].T, alpha=1 / temperature).exp_()
            if rows == columns:
                powers.fill_diagonal_(0.0)
            if denominator == "negatives":
                powers.masked_fill_(group[rows, None] == group[columns], 0.0)
            yield rows, columns, powers


def contrastive_loss(embeddings: Float[Tensor, "batch dim"], labels: Labels, config: CIAOConfig) -> Float[Tensor, ""]:
    """`L_CIAO` of Eq. 4 with the settings of an adapter, before it is multiplied by its weight.

    It is `supervised_contrastive_loss` of `contrastive_targets`.

    Args:
        embeddings: z of Eq. 2, `(B, D)`.
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives `temperature`, `contrastive_denominator`, `contrastive_reduction`, and what makes a positive pair.

    Returns:
        A scalar in float32 or wider.

    Example:
        >>> config = CIAOConfig(problem_type="regression", num_labels=1, temperature=1.0, num_bins=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> labels = torch.tensor([[0.2], [0.9], [-0.5]])  # the first two fall into one half of the range
        >>> contrastive_loss(embeddings, labels, config)  # log(1 + exp(-2))
        tensor(0.1269)
    """
    return supervised_contrastive_loss(
        embeddings,
        contrastive_targets(labels, config),
        temperature=config.temperature,
        denominator=config.contrastive_denominator,
        reduction=config.contrastive_reduction,
    )


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
) -> Losses:
    r"""The loss of an adapter and its two parts (Eq. 5).

    $$L_{all} = L_{dm} + \lambda L_{CIAO}$$

    With `contrastive_weight=0` the contrastive loss is not computed, and counts as 0.

    Args:
        logits: `(B, num_labels)`.
        embeddings: z of Eq. 2, `(B, D)`.
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives both losses their settings, and λ as `contrastive_weight`.

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
    contrastive = contrastive_loss(embeddings, labels, config)
    return Losses(task + config.contrastive_weight * contrastive, task, contrastive)
