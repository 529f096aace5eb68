"""What labels must look like, and which samples they make a positive pair."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ._shapes import Bool, Float, Int, Num
from .checking import all_finite, check_plain, values_at_hand
from .config import CIAOConfig
from .errors import InputError

__all__ = ["Labels", "check_labels", "contrastive_targets", "discretise", "jaccard_overlap", "widest_dtype"]

Labels: TypeAlias = Int[Tensor, " batch"] | Float[Tensor, "batch num_labels"]
"""What `check_labels` returns: one class id per sample; or one row of values, votes or 0 and 1 per sample."""


def widest_dtype(device: torch.device) -> torch.dtype:
    """The widest floating point of a device: float64, or float32 on Apple's GPUs, which have no float64.

    Example:
        >>> widest_dtype(torch.device("cpu")), widest_dtype(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def discretise(
    values: Num[Tensor, "batch values"], num_bins: int, label_range: tuple[float, float]
) -> Int[Tensor, " batch"]:
    """Numbers the cell of the label space that each row of regressed values falls into.

    Args:
        values: `(B, V)`. A value outside `label_range` belongs to the outermost cell.
        num_bins: Cells per dimension, of equal width.
        label_range: Lowest and highest value.

    Returns:
        `(B,)`, int64, equal exactly where the cells are.

    Example:
        >>> discretise(torch.tensor([[-0.9, 0.1], [-0.8, 0.15], [0.9, 0.1]]), 2, (-1.0, 1.0)).tolist()
        [1, 1, 3]
    """
    low, high = label_range
    bins = (
        ((values.to(widest_dtype(values.device)) - low) / (high - low) * num_bins).floor().clamp(0, num_bins - 1).long()
    )
    return _row_ids(bins, num_bins)


def _row_ids(rows: Int[Tensor, "batch digits"], base: int) -> Int[Tensor, " batch"]:
    """One integer per row of digits below `base`, equal exactly where the rows are."""
    if base ** rows.shape[1] < 2**62:
        return (rows * base ** torch.arange(rows.shape[1] - 1, -1, -1, device=rows.device)).sum(dim=1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def jaccard_overlap(
    labels: Num[Tensor, "batch num_labels"] | Bool[Tensor, "batch num_labels"],
) -> Float[Tensor, "batch batch"]:
    r"""How much the label sets of each pair of samples overlap.

    $$w_{ip} = \frac{|Y_i \cap Y_p|}{|Y_i \cup Y_p|}$$

    `Y_i` is the set of labels that sample i has. Two empty sets overlap wholly, so that 0/0 counts as 1.

    Args:
        labels: `(B, L)` of 0 and 1.

    Returns:
        `(B, B)`, symmetric, from 0 to 1, in float64 wherever the device has it.

    Example:
        >>> jaccard_overlap(torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0]])).tolist()
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    labels = labels.to(widest_dtype(labels.device))
    shared = labels @ labels.T
    size = labels.sum(dim=1)
    union = size[:, None] + size[None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def contrastive_targets(labels: Labels, config: CIAOConfig) -> Int[Tensor, " batch"] | Float[Tensor, "batch batch"]:
    """What makes two samples a positive pair, in the form that `supervised_contrastive_loss` takes.

    - A class id stands for itself, a distribution for its most voted class.
    - A row of regressed values stands for the cell of the label space that it falls into (`discretise`).
    - Label sets make pairs where they are equal, or by the weight of their overlap (`jaccard_overlap`).

    Args:
        labels: `(B,)` or `(B, num_labels)`, as `check_labels` returns them.
        config: Gives `problem_type`, `num_bins`, `label_range` and `multi_label_positives`.

    Returns:
        `(B,)`, int64, equal for positive pairs; or, for `multi_label_positives="jaccard"`, `(B, B)` weights.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> contrastive_targets(torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]]), config)
        tensor([1, 0])
    """
    if config.problem_type == "single_label_classification":
        return labels if labels.ndim == 1 else labels.argmax(dim=1)
    if config.problem_type == "regression":
        return discretise(labels, config.num_bins, config.label_range)
    if config.multi_label_positives == "jaccard":
        return jaccard_overlap(labels)
    return _row_ids(labels.long(), 2)


def check_labels(labels: Tensor, config: CIAOConfig, batch_size: int | None = None) -> Labels:
    """Checks that tensors are labels of a problem, and converts them to the dtype that the losses take.

    Values are checked on the CPU, and not while `torch.compile` traces; elsewhere shapes and dtypes are.

    Args:
        labels: By `problem_type`: class ids `(B,)` or distributions `(B, num_labels)`; values `(B, num_labels)`; sets
            `(B, num_labels)` of 0 and 1. A single regressed value may come as `(B,)`.
        config: Config of the adapter that learns them; gives `problem_type`, `num_labels` and `id2label`.
        batch_size: Number of samples they must belong to; any when left out.

    Returns:
        `(B,)` class ids in int64, or `(B, num_labels)` in float32.

    Raises:
        InputError: shape, dtype or values cannot be labels of this problem; the message says what was expected.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> check_labels(torch.tensor([0, 2], dtype=torch.uint8), config)
        tensor([0, 2])
        >>> check_labels(torch.tensor([0, 3]), config)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: Class ids run from 0 to 2 (LABEL_0 to LABEL_2); got 3 at row 1.
    """
    if not isinstance(labels, Tensor):
        raise InputError(f"`labels` must be a tensor; got {type(labels).__name__}. Try `torch.as_tensor(labels)`.")
    check_plain("labels", labels)
    count = config.num_labels
    single = config.problem_type == "single_label_classification"
    if config.problem_type == "regression" and labels.ndim == 1 and count == 1:
        labels = labels[:, None]
    expected = f"(B,) class ids or (B, {count}) distributions" if single else f"(B, {count})"
    fits = (labels.ndim == 2 and labels.shape[1] == count) or (single and labels.ndim == 1)
    if not fits or (batch_size is not None and len(labels) != batch_size):
        size = "" if batch_size is None else f" with B = {batch_size}"
        raise InputError(f"`labels` must be {expected}{size} for {config.problem_type}; got {tuple(labels.shape)}.")
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            if labels.is_floating_point() and values_at_hand(labels) and not all_finite(labels):
                row = int((~labels.isfinite()).nonzero()[0, 0])
                raise InputError(f"Class ids must be whole numbers; got {labels[row].item()} at row {row}.")
            raise InputError(f"Class ids must be whole numbers; got {labels.dtype}. Round them and use `.long()`.")
        labels = labels.long()
        if values_at_hand(labels):
            _refuse_rows((labels < 0) | (labels >= count), labels, _ids_run(config))
        return labels
    if labels.is_complex():
        raise InputError(f"Labels must be real numbers; got {labels.dtype}.")
    labels = labels.float()
    if not values_at_hand(labels):
        return labels
    _refuse_rows(~labels.isfinite().all(dim=1), labels, "Labels must be finite")
    if single:
        total = labels.sum(dim=1)
        bad = (labels < 0).any(dim=1) | ((total - 1).abs() > 1e-3)
        _refuse_rows(bad, labels, "A label distribution has values of 0 or more that sum to 1")
    elif config.problem_type == "multi_label_classification":
        bad = ((labels != 0) & (labels != 1)).any(dim=1)
        _refuse_rows(bad, labels, "Labels of multi_label_classification are 0 or 1")
    return labels


def _ids_run(config: CIAOConfig) -> str:
    first, last = config.id2label[0], config.id2label[config.num_labels - 1]
    return f"Class ids run from 0 to {config.num_labels - 1} ({first} to {last})"


def _refuse_rows(bad: Bool[Tensor, " batch"], labels: Labels, rule: str) -> None:
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise InputError(f"{rule}; got {labels[row].tolist()} at row {row}.")
