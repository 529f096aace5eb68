"""What labels must look like, and which samples they make a positive pair."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import CIAOConfig
from .errors import InputError


def widest_dtype(device: torch.device) -> torch.dtype:
    """The widest floating point of a device: float64, which Apple's GPUs do not have.

    Example:
        >>> widest_dtype(torch.device("cpu")), widest_dtype(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64


def discretise(values: Tensor, num_bins: int, label_range: tuple[float, float]) -> Tensor:
    """The cell of the label space that each row of regressed values falls into.

    Args:
        values: `(B, V)`. Values outside `label_range` count to the outermost cell.
        num_bins: Cells per dimension, of equal width.
        label_range: Lowest and highest value.

    Returns:
        `(B,)` integers, equal exactly where the cells are.

    Example:
        >>> discretise(torch.tensor([[-0.9, 0.1], [-0.8, 0.15], [0.9, 0.1]]), 2, (-1.0, 1.0)).tolist()
        [1, 1, 3]
    """
    low, high = label_range
    bins = (
        ((values.to(widest_dtype(values.device)) - low) / (high - low) * num_bins).floor().clamp(0, num_bins - 1).long()
    )
    return _row_ids(bins, num_bins)


def _row_ids(rows: Tensor, base: int) -> Tensor:
    """One integer per row of digits below `base`, equal exactly where the rows are."""
    if base ** rows.shape[1] < 2**62:
        return (rows * base ** torch.arange(rows.shape[1] - 1, -1, -1, device=rows.device)).sum(dim=1)
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def jaccard_overlap(labels: Tensor) -> Tensor:
    """Shared labels over all labels of each pair: `(B, L)` of 0 and 1 to `(B, B)`; two empty sets overlap wholly.

    Example:
        >>> jaccard_overlap(torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0]])).tolist()
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    labels = labels.to(widest_dtype(labels.device))
    shared = labels @ labels.T
    size = labels.sum(dim=1)
    union = size[:, None] + size[None, :] - shared
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def contrastive_targets(labels: Tensor, config: CIAOConfig) -> Tensor:
    """What makes two samples a positive pair, in the form `supervised_contrastive_loss` takes.

    Classes are their ids; a distribution counts as its most voted class; regressed values as the cell of the label
    space they fall into; label sets as themselves, or as the `(B, B)` Jaccard overlaps.

    Args:
        labels: As `check_labels` returns them.
        config: Gives `problem_type`, `num_bins`, `label_range` and `multi_label_positives`.

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


def check_labels(labels: Tensor, config: CIAOConfig, batch_size: int | None = None) -> Tensor:
    """The labels in the dtype the losses want, if they are labels of this problem.

    Args:
        labels: Class ids `(B,)` or distributions `(B, num_labels)`; values `(B, num_labels)`; sets `(B, num_labels)` of
            0 and 1. One regressed value may come as `(B,)`.
        config: Of the adapter that is to learn them.
        batch_size: Number of samples they must belong to.

    Returns:
        int64 class ids, or float32.

    Raises:
        InputError: shape, dtype or values that cannot be labels of this problem; says which and what was expected.

    Example:
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3)
        >>> check_labels(torch.tensor([0, 3]), config)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.InputError: Class ids run from 0 to 2 (LABEL_0 to LABEL_2); got 3 at row 1.
    """
    if not isinstance(labels, Tensor):
        raise InputError(f"`labels` must be a tensor; got {type(labels).__name__}. Try `torch.as_tensor(labels)`.")
    count = config.num_labels
    single = config.problem_type == "single_label_classification"
    if config.problem_type == "regression" and labels.ndim == 1 and count == 1:
        labels = labels[:, None]
    wanted = f"(B,) class ids or (B, {count}) distributions" if single else f"(B, {count})"
    fits = (labels.ndim == 2 and labels.shape[1] == count) or (single and labels.ndim == 1)
    if not fits or (batch_size is not None and len(labels) != batch_size):
        size = "" if batch_size is None else f" with B = {batch_size}"
        raise InputError(f"`labels` must be {wanted}{size} for {config.problem_type}; got {tuple(labels.shape)}.")
    if labels.ndim == 1:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise InputError(f"Class ids must be whole numbers; got {labels.dtype}. Round them and use `.long()`.")
        labels = labels.long()
        if not torch.compiler.is_compiling():
            _refuse_rows((labels < 0) | (labels >= count), labels, _ids_run(config))
        return labels
    if labels.is_complex():
        raise InputError(f"Labels must be real numbers; got {labels.dtype}.")
    labels = labels.float()
    if torch.compiler.is_compiling():
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


def _refuse_rows(bad: Tensor, labels: Tensor, rule: str) -> None:
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise InputError(f"{rule}; got {labels[row].tolist()} at row {row}.")
