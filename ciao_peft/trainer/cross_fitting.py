"""Answers to samples that an adapter was trained on, by others like it that were not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from .._shapes import Bool, Float
from ..errors import DataError, quoted
from ..model import CIAOModel
from .arguments import CIAOTrainingArguments
from .setting_groups import ALONE

__all__ = ["Answers", "cross_fitted_logits"]


class Answers(Protocol):
    """Trains the adapter of a name on some samples, and returns its logits for others."""

    def __call__(self, name: str, args: CIAOTrainingArguments, rest: Any, held_out: Any, /) -> Tensor:
        """`(H, num_labels)`, for the H samples that are held out."""
        ...


def cross_fitted_logits(
    model: CIAOModel,
    adapter_name: str,
    args: CIAOTrainingArguments,
    data: Any,
    folds: Iterable[tuple[str, Bool[np.ndarray, " samples"]]],
    answers: Answers,
    say: Callable[[str], object] = print,
) -> Float[Tensor, "samples num_labels"]:
    """Logits of every sample, by an adapter that was trained without the fold in which the sample lies.

    For each fold a new adapter with the config of the one that is named is trained by the same settings on all other
    samples, to the end of the last epoch, and leaves the model again. The adapter that is named stays as it is.

    Args:
        model: Holds the adapter.
        adapter_name: Which adapter.
        args: Of its training; what evaluates, saves or reports in it is left out.
        data: N samples, as for `CIAOTrainer.train`; a dataset of features keeps its views.
        folds: Name and samples of each, `(N,)` bool, as `ciao_peft.data.subject_folds` deals them; each sample is in
            one of them.
        answers: Trains and answers.
        say: Is told of every fold.

    Returns:
        `(N, num_labels)`, in the order of the samples.

    Raises:
        DataError: there are fewer than two folds, or a sample is in none or in several.

    Example:
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(load_encoder("small-face"), config, "mood")
        >>> def guess(name, args, rest, held_out):
        ...     print(name, "learns from", list(rest))
        ...     return torch.ones(len(held_out), 2)
        >>> first = np.array([True, True, False])
        >>> folds = [("fold 1", first), ("fold 2", ~first)]
        >>> cross_fitted_logits(model, "mood", CIAOTrainingArguments(), ["a", "b", "c"], folds, guess).shape
        Calibration, fold 1 of 2: another adapter learns from all other samples.
        mood-fold-1 learns from ['c']
        Calibration, fold 2 of 2: another adapter learns from all other samples.
        mood-fold-2 learns from ['a', 'b']
        torch.Size([3, 2])
    """
    parts, active = _checked(folds, len(data)), model.active_adapter
    config = dataclasses.replace(model.peft_config[adapter_name], probability_temperature=1.0)
    alone = dataclasses.replace(args, **ALONE)
    logits = torch.zeros(len(data), config.num_labels)
    for number, (name, held_out) in enumerate(parts, start=1):
        say(f"Calibration, {name} of {len(parts)}: another adapter learns from all other samples.")
        other = f"{adapter_name}-fold-{number}"
        while other in model.adapters:
            other += "-"
        model.add_adapter(other, config)
        try:
            rest, rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
            logits[torch.from_numpy(held_out)] = answers(other, alone, _part(data, rest), _part(data, rows))
        finally:
            model.delete_adapter(other)
            if active is not None:
                model.set_adapter(active)
    return logits


def _checked(folds: Any, count: int) -> list[tuple[str, np.ndarray]]:
    try:
        parts = [(str(name), np.asarray(held_out)) for name, held_out in folds]
    except (TypeError, ValueError):
        raise DataError(
            f"`folds` must be the name and the samples of each fold, as `ciao_peft.data.subject_folds(faces, 5)` deals "
            f"them; got {quoted(folds)}."
        ) from None
    for name, held_out in parts:
        if held_out.dtype != bool or held_out.shape != (count,):
            raise DataError(
                f"Fold {name!r} must say of each of {count:,} samples whether it is in it, as bool; got "
                f"{held_out.dtype} {held_out.shape}. `ciao_peft.data.subject_folds(faces, 5)` makes folds."
            )
    often = np.sum([held_out for _, held_out in parts], axis=0)
    if len(parts) < 2 or (often != 1).any():
        raise DataError(
            f"Each sample must be in one of two folds or more; there are {len(parts)}, and {int((often != 1).sum()):,} "
            "samples in none or in several."
        )
    return parts


def _part(data: Any, rows: Sequence[int] | np.ndarray) -> Any:
    rows = [int(row) for row in rows]
    return data.select(rows) if hasattr(data, "select") else Subset(data, rows)
