"""Names of training settings that belong together: by what they change, and by what they may be."""

from __future__ import annotations

from typing import Any

__all__ = ["LENGTH", "ON_THE_WAY", "UNLABELLED", "UNLABELLED_FLAGS", "UNLABELLED_SHARES", "WHEN", "WHERE"]

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

UNLABELLED_SHARES = ("unlabelled_warmup", "pseudo_label_share", "pseudo_label_confidence", "pseudo_label_alignment")
"""Those of pictures without labels that lie between 0 and 1."""

UNLABELLED_FLAGS = ("adaptive_confidence", "contrast_unlabelled")
"""Those that are true or false."""

UNLABELLED = (*UNLABELLED_SHARES, "unlabelled_ratio", "unlabelled_weight", *UNLABELLED_FLAGS)
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
