"""Eq. 2-4, the supervised contrastive loss: block by block, as device and memory ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, get_args

import torch
from torch import Tensor

from ._shapes import Float, Int, Shaped
from .checking import check_number
from .config import Denominator, Reduction
from .errors import ConfigError, InputError, listed, quoted
from .labels import widest_dtype

__all__ = ["dense_loss", "supervised_contrastive_loss"]


def _unit_length(rows: Float[Tensor, "*sets dim"]) -> Float[Tensor, "*sets dim"]:
    """Scales rows to length 1, however short they are; zeros have no direction, stay zeros and get no gradient."""
    length = rows.norm(dim=-1, keepdim=True)
    return torch.where(length > 0, rows / torch.where(length > 0, length, 1.0), 0.0)


def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    denominator: Denominator = "all",
    reduction: Reduction = "mean",
    block_size: int | None = None,
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
            and are computed again for the gradient where there are several blocks. Changes no result. When left out:
            256 on a CPU, whose caches hold that many; elsewhere all below 4,096 samples and half of them from there
            on, or as many as a quarter of the free memory holds. Pair weights, and a τ so small that its powers do
            not fit (below 0.003 in float64), take whole `(B, B)` matrices.

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
    if block_size is None:
        block_size = _block_size(len(embeddings), embeddings.device)
    else:
        check_number("block_size", block_size, int, 1)
    result_dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    settings = (float(temperature), denominator, reduction == "sum")
    with _full_precision(embeddings.device):
        # exp((cos - 1) / τ) down to cos = -1, with room for a sum of them and its inverse.
        fits = 2.2 / temperature < math.log(torch.finfo(widest_dtype(embeddings.device)).max)
        if labels.ndim == 1 and fits:
            if _counts_by_products(embeddings.device) and denominator != "class_average":
                return _ProductsLoss.apply(embeddings, labels, settings, block_size).to(result_dtype)
            return _BlockedLoss.apply(embeddings, _group_ids(labels), settings, block_size).to(result_dtype)
        return dense_loss(embeddings, labels, *settings).to(result_dtype)


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision would take the products in half precision; the meta device knows none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


_FEW = 4096
"""Samples from which the whole matrix of a batch would take more than a quarter of what the plain formula takes."""


def _block_size(batch: int, device: torch.device) -> int:
    """Samples of a block: what a CPU's caches hold; elsewhere as many as memory allows, because each launch costs."""
    if device.type == "cpu":
        return 256
    block = batch if batch < _FEW else min(-(-batch // 2), 2 * _FEW)
    if device.type == "cuda" and 8 * block**2 > 2**28 and not torch.compiler.is_compiling():
        free = torch.cuda.mem_get_info(device)[0]
        block = min(block, max(int((free / 4 / 8) ** 0.5), 256))
    return block


def _counts_by_products(device: torch.device) -> bool:
    """Whether sums over a class are products of matrices: a GPU adds to the same few rows one value after another."""
    return device.type != "cpu"


def dense_loss(
    embeddings: Float[Tensor, "*sets batch dim"],
    labels: Shaped[Tensor, "*sets batch"] | Shaped[Tensor, "*sets batch batch"],
    temperature: float | Float[Tensor, "*sets 1 1"],
    denominator: Denominator,
    summed: bool,
) -> Float[Tensor, "*sets"]:
    """`supervised_contrastive_loss` from whole `(B, B)` matrices, of one batch or of several at once.

    Args:
        embeddings: `(B, D)`, or `(K, B, D)` of K batches.
        labels: Class ids or weights of pairs, with the same K in front.
        temperature: τ, or `(K, 1, 1)`.
        denominator: As there.
        summed: Whether `reduction` is `"sum"`.

    Returns:
        A scalar or `(K,)`, in the widest floating point.

    Example:
        >>> embeddings, labels = torch.rand(3, 4, 8), torch.tensor([[0, 0, 1, 1]] * 3)
        >>> each = dense_loss(embeddings, labels, 0.1, "all", summed=False)
        >>> torch.allclose(each[1].float(), supervised_contrastive_loss(embeddings[1], labels[1]))
        True
    """
    exact = widest_dtype(embeddings.device)
    with _full_precision(embeddings.device):
        z = _unit_length(embeddings.to(exact))
        similarity = z @ z.mT / temperature  # (*, B, B)
        size = z.shape[-2]
        same_sample = torch.eye(size, dtype=torch.bool, device=z.device)
        weights = labels if labels.ndim == z.ndim else labels[..., :, None] == labels[..., None, :]
        weights = weights.to(exact).masked_fill(same_sample, 0.0)
        counted = (weights == 0) & ~same_sample if denominator == "negatives" else ~same_sample
        total_weight = weights.sum(dim=-1)
        is_anchor = (total_weight > 0) & counted.any(dim=-1)

        # A large number rather than -inf: a row that counts nobody would be a row of -inf, whose gradient is NaN.
        in_denominator = similarity
        if denominator == "class_average":
            in_denominator = similarity + _shares(_group_ids(labels), exact).log()[..., None, :]
        log_prob = similarity - in_denominator.masked_fill(~counted, -1e30).logsumexp(dim=-1, keepdim=True)
        per_anchor = -torch.where(is_anchor, (log_prob * weights).sum(dim=-1), 0.0)
        if summed:
            return per_anchor.sum(dim=-1) / max(size - 1, 1)
        per_anchor = per_anchor / torch.where(is_anchor, total_weight, 1.0)
        return per_anchor.sum(dim=-1) / is_anchor.sum(dim=-1).clamp(min=1)


def _group_ids(labels: Shaped[Tensor, "*sets batch"]) -> Int[Tensor, "*sets batch"]:
    """Numbers below B, equal exactly where the labels of a batch are; unlike `torch.unique`, in a known shape."""
    ordered, order = labels.sort(dim=-1)
    is_new = torch.ones_like(order)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    return torch.empty_like(order).scatter_(-1, order, is_new.cumsum(dim=-1) - 1)


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
        kept = []  # the powers of a single block, for the gradient
        for rows, columns, powers in _blocks(z, group, temperature, denominator, block_size):
            totals[rows] += powers.sum(dim=1) if shares is None else powers @ shares[columns]
            if rows != columns:
                totals[columns] += powers.sum(dim=0) if shares is None else shares[rows] @ powers
            elif block_size >= len(z):
                kept = [powers]
        totals = torch.where(totals > 0, totals, 1.0)  # of a sample that counts nobody: no anchor
        class_weight = weight.new_zeros(len(z)).scatter_(0, group, weight)
        sums = torch.zeros_like(z).index_add_(0, group, z)
        attraction = class_weight @ sums.norm(dim=1).square_() - weight @ z.norm(dim=1).square_()
        ctx.save_for_backward(embeddings, group, totals, *kept)
        ctx.settings, ctx.block_size = settings, block_size
        return (weight * positives) @ (totals.log() + 1 / temperature) - attraction / temperature

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Float[Tensor, ""]) -> tuple[Float[Tensor, "batch dim"], None, None, None]:
        (grad,) = grad_outputs
        embeddings, group, totals, *kept = ctx.saved_tensors
        temperature, denominator, summed = ctx.settings
        with _full_precision(embeddings.device):
            if torch.is_grad_enabled():  # the gradient of the gradient will be asked for
                loss = dense_loss(embeddings, group, *ctx.settings)
                return *torch.autograd.grad(loss, embeddings, grad, create_graph=True), None, None, None
            z, length = _directions(embeddings)
            positives, weight = _anchors(group, z.dtype, denominator, summed)
            pull = weight * positives / totals
            shares = _shares(group, z.dtype) if denominator == "class_average" else None
            to_z = torch.zeros_like(z).index_add_(0, group, z).index_select(0, group)
            to_z.sub_(z).mul_(-2 * weight[:, None])
            if kept:
                to_z.addmm_(kept[0] * _pulls(pull, shares, slice(None), slice(None)), z)
            blocks = () if kept else _blocks(z, group, temperature, denominator, ctx.block_size)
            for rows, columns, powers in blocks:
                powers.mul_(_pulls(pull, shares, rows, columns))
                to_z[rows].addmm_(powers, z[columns])
                if rows != columns:
                    to_z[columns].addmm_(powers.T, z[rows])
            # Through the scaling to unit length: what points along z changes nothing.
            to_z.addcmul_(torch.linalg.vecdot(to_z, z)[:, None], z, value=-1)
            scale = torch.where(length > 0, grad / temperature / torch.where(length > 0, length, 1.0), 0.0)
            return to_z.mul_(scale).to(embeddings.dtype), None, None, None


class _ProductsLoss(torch.autograd.Function):
    """The same loss where a launch costs more than a product: few blocks, few operations, no sum row by row.

    With y = z / sqrt(τ), `E_ij = exp(y_i . y_j)` where j counts for i, and `W_ij` 1 where i and j are two of one class,
    the loss is, with `Z = E 1` and `P = W 1`,

        sum_i (a_i log Z_i - c_i y_i . (W y)_i) / n,     a_i = c_i P_i,

    and its gradient to `y_i` is `(b_i (E y)_i + (E (b y))_i - 2 c_i (W y)_i) / n` with `b_i = a_i / Z_i`: products of
    matrices, and no pass over one. Nothing overflows where the powers of `_BlockedLoss` fit.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Float[Tensor, "batch dim"],
        labels: Shaped[Tensor, " batch"],
        settings: tuple[float, Denominator, bool],
        block_size: int,
    ) -> Float[Tensor, ""]:
        temperature, denominator, summed = settings
        negatives_only = denominator == "negatives"
        y = embeddings.detach().to(widest_dtype(embeddings.device))
        least = torch.finfo(y.dtype).tiny
        length = y.norm(dim=1, keepdim=True)
        scale = length.sign().div_(length.clamp_min(least).mul_(temperature**0.5))  # 0 for a row of zeros
        y = y * scale
        whole = block_size >= len(y)
        kept: list[Tensor] = []
        totals = positives = others = y  # of one block, they are made by it
        if not whole:
            totals, positives, others = y.new_zeros(len(y)), y.new_zeros(len(y)), torch.zeros_like(y)
        for rows, columns in _squares(len(y), block_size):
            powers = _powers(y, labels, rows, columns, negatives_only)
            if whole:
                totals, kept = powers.sum(dim=1), [powers]
            else:
                totals[rows].add_(powers.sum(dim=1))
                if rows != columns:
                    totals[columns].add_(powers.sum(dim=0))
            del powers  # before another matrix is made
            same = _same(labels, rows, columns).to(y.dtype)
            if rows == columns:
                same.fill_diagonal_(0.0)
            if whole:
                positives, others = same.sum(dim=1), same @ y
            else:
                positives[rows].add_(same.sum(dim=1))
                others[rows].addmm_(same, y[columns])
                if rows != columns:
                    positives[columns].add_(same.sum(dim=0))
                    others[columns].addmm_(same.T, y[rows])
            del same
        totals = totals.clamp_min(least)  # of a sample that counts nobody: no anchor
        anchors = positives.clamp_max(1.0)
        if negatives_only:
            anchors = anchors * (positives < len(y) - 1)
        if summed:
            number, counted, weight = anchors.new_full((), max(len(y) - 1, 1)), anchors * positives, anchors
        else:
            number, counted, weight = anchors.sum().clamp_min(1.0), anchors, anchors / positives.clamp_min(1.0)
        others.mul_(weight[:, None])
        ctx.save_for_backward(embeddings, labels, y, scale, others, counted / totals, number, *kept)
        ctx.settings, ctx.block_size = settings, block_size
        return (counted.dot(totals.log()) - y.flatten().dot(others.flatten())) / number

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Float[Tensor, ""]) -> tuple[Float[Tensor, "batch dim"], None, None, None]:
        (grad,) = grad_outputs
        embeddings, labels, y, scale, others, pull, number, *kept = ctx.saved_tensors
        temperature, denominator, _ = ctx.settings
        negatives_only = denominator == "negatives"
        with _full_precision(embeddings.device):
            if torch.is_grad_enabled():  # the gradient of the gradient will be asked for
                loss = dense_loss(embeddings, labels, *ctx.settings)
                return *torch.autograd.grad(loss, embeddings, grad, create_graph=True), None, None, None
            pull = pull[:, None]
            pulled = pull * y
            if kept:
                to_y = torch.addcmul(kept[0] @ pulled, pull, kept[0] @ y)
            else:
                to_y = torch.zeros_like(y)
                for rows, columns in _squares(len(y), ctx.block_size):
                    powers = _powers(y, labels, rows, columns, negatives_only)
                    to_y[rows].addmm_(powers, pulled[columns]).addcmul_(pull[rows], powers @ y[columns])
                    if rows != columns:
                        to_y[columns].addmm_(powers.T, pulled[rows]).addcmul_(pull[columns], powers.T @ y[rows])
                    del powers
            to_y.sub_(others, alpha=2)
            # Through the scaling to unit length: what points along z changes nothing.
            to_y.addcmul_(torch.linalg.vecdot(to_y, y)[:, None], y, value=-temperature)
            return to_y.mul_(scale * (grad / number)).to(embeddings.dtype), None, None, None


def _squares(size: int, block_size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the blocks on and above the diagonal."""
    for row in range(0, size, block_size):
        for column in range(row, size, block_size):
            yield slice(row, min(row + block_size, size)), slice(column, min(column + block_size, size))


def _same(labels: Shaped[Tensor, " batch"], rows: slice, columns: slice) -> Tensor:
    return labels[rows, None] == labels[columns]


def _powers(
    y: Float[Tensor, "batch dim"], labels: Shaped[Tensor, " batch"], rows: slice, columns: slice, negatives_only: bool
) -> Tensor:
    powers = (y[rows] @ y[columns].T).exp_()
    if rows == columns:
        powers.fill_diagonal_(0.0)
    return powers.masked_fill_(_same(labels, rows, columns), 0.0) if negatives_only else powers


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


def _shares(group: Int[Tensor, "*sets batch"], dtype: torch.dtype) -> Float[Tensor, "*sets batch"]:
    """How often each sample counts in a denominator of `"class_average"`: B / (C n), 1 where all classes are equal."""
    in_group = torch.zeros(group.shape, dtype=dtype, device=group.device)
    in_group.scatter_add_(-1, group, torch.ones_like(in_group))
    return group.shape[-1] / (in_group.gather(-1, group) * (in_group > 0).sum(dim=-1, keepdim=True))


def _pulls(pull: Tensor, shares: Tensor | None, rows: slice, columns: slice) -> Tensor:
    """How strongly the anchors of a block pull at each other."""
    if shares is None:
        return pull[rows, None] + pull[columns]
    return torch.outer(pull[rows], shares[columns]) + torch.outer(shares[rows], pull[columns])


def _blocks(
    z: Float[Tensor, "batch dim"],
    group: Shaped[Tensor, " batch"],
    temperature: float,
    denominator: Denominator,
    block_size: int,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and the powers E there, for the blocks on and above the diagonal."""
    largest = z.new_full((1, 1), -1 / temperature)
    for rows, columns in _squares(len(z), block_size):
        powers = torch.addmm(largest, z[rows], z[columns].T, alpha=1 / temperature).exp_()
        if rows == columns:
            powers.fill_diagonal_(0.0)
        if denominator == "negatives":
            powers.masked_fill_(_same(group, rows, columns), 0.0)
        yield rows, columns, powers
