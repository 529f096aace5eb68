"""Names of training settings that belong together: by what they change, and by what they may be."""

from __future__ import annotations

from typing import Any

__all__ = ["ALONE", "LENGTH", "ON_THE_WAY", "RANGES", "UNLABELLED", "UNLABELLED_FLAGS", "WHEN", "WHERE"]

ON_THE_WAY = (
    *("output_dir", "logging_steps", "report_to", "disable_tqdm", "dataloader_num_workers", "feature_cache"),
    "ddp_timeout",
)
"""They change nothing of what is trained."""

WHERE = ("feature_device", "compile")
"""As the device itself, they change no more than the rounding."""

WHEN = ("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit", "resume_from_checkpoint")
"""When a training looks at itself, and what it keeps."""

LENGTH = ("num_train_epochs", "max_steps", "warmup_ratio", "warmup_steps")
"""How long it goes on, and how it begins."""

_UNLABELLED_SHARES = ("unlabelled_warmup", "pseudo_label_share", "pseudo_label_confidence", "pseudo_label_alignment")
"""Those of pictures without labels that lie between 0 and 1."""

UNLABELLED_FLAGS = ("adaptive_confidence", "contrast_unlabelled")
"""Those that are true or false."""

UNLABELLED = (*_UNLABELLED_SHARES, "unlabelled_ratio", "unlabelled_weight", *UNLABELLED_FLAGS)
"""All that say how pictures without labels are learned from; without such pictures they change nothing."""

ALONE: dict[str, Any] = {
    "output_dir": None,
    "resume_from_checkpoint": None,
    "report_to": "none",
    "eval_strategy": "no",
    "eval_steps": None,
    "save_strategy": "no",
    "save_steps": None,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
}
"""Of a training to its last epoch that nobody evaluates meanwhile, and that leaves nothing on disk."""

_COUNTS = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "logging_steps"),
    *("ddp_timeout", "views", "unlabelled_ratio"),
    *("eval_steps", "save_steps", "save_total_limit", "early_stopping_patience"),
)

RANGES: dict[str, tuple[type, float, float]] = {
    **dict.fromkeys(_COUNTS, (int, 1, 2**63 - 1)),
    **dict.fromkeys(("warmup_steps", "seed", "dataloader_num_workers"), (int, 0, 2**63 - 1)),
    "max_steps": (int, -1, 2**63 - 1),
    **dict.fromkeys(("mask_learning_rate", "encoder_learning_rate", "weight_decay", "max_grad_norm"), (float, 0, 1e6)),
    **dict.fromkeys(("warmup_ratio", "class_balance", "average_last", *_UNLABELLED_SHARES), (float, 0, 1)),
    **dict.fromkeys(("early_stopping_threshold", "unlabelled_weight"), (float, 0, 1e9)),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "sgd_momentum"), (float, 0, 1 - 1e-9)),
    **dict.fromkeys(("learning_rate", "adam_epsilon", "num_train_epochs"), (float, 1e-12, 1e9)),
}
"""The numbers among the settings: kind, least and largest value of each."""
