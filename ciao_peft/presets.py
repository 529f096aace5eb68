"""Settings of an adapter that go together under a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAPER: dict[str, Any] = {
    "tuning": "decision_layer",
    "inhibition": True,
    "inhibition_form": "divisive",
    "inhibition_rank": None,
    "excitation_rank": 0,
    "inhibition_start": "copy",
    "decay_init": None,
    "learn_decay": True,
    "pooling": "flatten",
    "spatial_maps": None,
    "depths": None,
    "depth_grid": 1,
    "hidden_sizes": (256,),
    "dropout": 0.5,
    "temperature": 0.1,
    "contrastive_weight": 1.0,
    "task_loss_trains": "all",
    "contrastive_denominator": "all",
    "contrastive_prototypes": "none",
    "contrastive_reduction": "mean",
    "embedding_source": "features",
    "num_bins": 10,
    "multi_label_positives": "jaccard",
    "regression_loss": "mse",
    "logit_adjustment": 0.0,
    "train_batch_norm": False,
}
"""Eq. 1-5. A saved adapter, a method of a study or its record that leaves a setting out means this one, whatever the
defaults of `CIAOConfig` become."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    "small-data": {**PAPER, "inhibition_form": "rescaled"},
    "compact": {
        **PAPER,
        "inhibition_form": "gain",
        "inhibition_rank": 16,
        "excitation_rank": 16,
        "spatial_maps": 8,
        "hidden_sizes": (),
    },
}
"""By name, all that a preset decides; the rest is the task's."""


def over_paper(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's preset, and over it what a folder, a method or a record says.

    An `excitation_rank` of null counts as left out: it is the preset's there, and not that of a config.

    Example:
        >>> said = over_paper({"excitation_rank": None, "temperature": 0.2})
        >>> said["excitation_rank"], said["temperature"]
        (0, 0.2)
    """
    return PAPER | {name: value for name, value in settings.items() if (name, value) != ("excitation_rank", None)}
