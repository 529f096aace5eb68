"""Answers to samples that an adapter was trained on, by others like it that were not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from .._shapes import Bool, Float
from ..errors import DataError
from ..features import FeatureDataset

if TYPE_CHECKING:
    from .trainer import CIAOTrainer

__all__ = ["cross_fitted_logits"]


def cross_fitted_logits(
    trainer: CIAOTrainer, dataset: Any, folds: Iterable[tuple[str, Bool[np.ndarray, " samples"]]]
) -> Float[Tensor, "samples num_labels"]:
    """Logits of every sample, by an adapter that was trained without the fold in which the sample lies.

    For each fold a new adapter with the config of the trainer's is trained by the same settings on all other samples,
    to the end of the last epoch, and leaves the model again. The trainer's own adapter stays as it is.

    Args:
        trainer: Of the adapter.
        dataset: N samples, as for `CIAOTrainer.train`; where the trainer was trained on them, stored features are those
            of that training.
        folds: Name and samples of each, `(N,)` bool, as `ciao_peft.data.subject_folds` deals them; each sample is in
            one of them.

    Returns:
        `(N, num_labels)`, in the order of the samples.

    Raises:
        DataError: there are fewer than two folds, or a sample is in none or in several.
        TrainingError, FeatureCacheError, InputError: as for `CIAOTrainer.train`.

    Example:
        >>> import torch
        >>> from ciao_peft import CIAOConfig, CIAOTrainer, CIAOTrainingArguments, get_ciao_model
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU())
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> model = get_ciao_model(net, config, "mood", input_size=(3, 16, 16))
        >>> faces = [{"pixel_values": torch.rand(3, 16, 16), "labels": n % 2} for n in range(8)]
        >>> trainer = CIAOTrainer(model, CIAOTrainingArguments(max_steps=2, report_to="none", disable_tqdm=True))
        >>> first = np.arange(8) < 4
        >>> logits = cross_fitted_logits(trainer, faces, [("fold 1", first), ("fold 2", ~first)])
        Calibration, fold 1 of 2: another adapter learns from all other samples.
        Calibration, fold 2 of 2: another adapter learns from all other samples.
        >>> logits.shape, list(model.adapters)
        (torch.Size([8, 2]), ['mood'])
    """
    model, active = trainer.model, trainer.model.active_adapter
    source = trainer._source(dataset, "dataset", True, views=trainer.args.views)
    parts = _checked(folds, len(source))
    data = source.data if isinstance(source.data, FeatureDataset) else dataset
    config = dataclasses.replace(trainer.config, probability_temperature=1.0)
    arguments = dataclasses.replace(
        trainer.args,
        output_dir=None,
        resume_from_checkpoint=None,
        report_to="none",
        eval_strategy="no",
        eval_steps=None,
        save_strategy="no",
        save_steps=None,
        load_best_model_at_end=False,
        early_stopping_patience=None,
    )
    logits = torch.zeros(len(source), config.num_labels)
    for number, (name, held_out) in enumerate(parts, start=1):
        trainer.print(f"Calibration, {name} of {len(parts)}: another adapter learns from all other samples.")
        other = f"{trainer.adapter_name}-fold-{number}"
        while other in model.adapters:
            other += "-"
        model.add_adapter(other, config)
        try:
            own = type(trainer)(model, arguments, other)
            own.train(_part(data, np.flatnonzero(~held_out)))
            logits[torch.from_numpy(held_out)] = own.predict(_part(data, np.flatnonzero(held_out))).logits
        finally:
            model.delete_adapter(other)
            if active is not None:
                model.set_adapter(active)
    return logits


def _checked(folds: Any, count: int) -> list[tuple[str, np.ndarray]]:
    parts = [(str(name), np.asarray(held_out)) for name, held_out in folds]
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
